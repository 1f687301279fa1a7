import asyncio
import contextlib
import errno
import logging

import pytest
import uvicorn

from corerec.serving.connections import AcceptErrorLog, limited_protocol

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope, receive, send):
    if scope["type"] == "http":
        body = b"x" * (2**24 if scope["path"] == "/large" else 2)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


def with_server(scenario, max_connections=10, header_timeout_s=10.0, write_timeout_s=10.0):
    """Run `scenario(connect)` before a server with these limits."""

    async def main():
        protocol = limited_protocol(max_connections, header_timeout_s, write_timeout_s)
        config = uvicorn.Config(app, http=protocol, lifespan="off", log_level="critical", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        loop = asyncio.get_running_loop()

        def make():
            return protocol(config=config, server_state=server.server_state, app_state={}, _loop=loop)

        listener = await loop.create_server(make, "127.0.0.1", 0)
        writers = []

        async def connect():
            reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
            writers.append(writer)
            await asyncio.sleep(0.01)
            return reader, writer

        try:
            await scenario(connect)
        finally:
            for writer in writers:
                writer.close()
            listener.close()
            await asyncio.sleep(0.01)
        return protocol

    return asyncio.run(main())


async def is_closed(reader):
    try:
        return await asyncio.wait_for(reader.read(1), 5) == b""
    except ConnectionError:
        return True


async def ask(reader, writer, request=REQUEST):
    writer.write(request)
    return await asyncio.wait_for(reader.readline(), 5), await asyncio.wait_for(reader.readuntil(b"xx"), 5)


def test_beyond_the_bound_the_longest_idle_connection_is_closed():
    async def scenario(connect):
        first, second, third = [await connect() for _ in range(3)]
        await ask(*first)  # idle again, and now for the shortest time
        fourth = await connect()
        assert await is_closed(second[0])
        for connection in (first, third, fourth):
            assert (await ask(*connection))[0].startswith(b"HTTP/1.1 200")

    protocol = with_server(scenario, max_connections=3)

    assert not protocol.idle


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_headers_that_do_not_arrive_end_the_connection(sent):
    async def scenario(connect):
        reader, writer = await connect()
        writer.write(sent)
        assert await is_closed(reader)

    with_server(scenario, header_timeout_s=0.5)


def test_headers_that_arrive_byte_by_byte_end_the_connection():
    async def scenario(connect):
        reader, writer = await connect()
        await ask(reader, writer)  # the second request is no better off than the first
        with contextlib.suppress(ConnectionError):
            for byte in REQUEST:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)
        assert await is_closed(reader)

    with_server(scenario, header_timeout_s=0.5)


def test_an_idle_connection_outlives_the_headers_time():
    async def scenario(connect):
        connection = await connect()
        for _ in range(3):
            await ask(*connection)
            await asyncio.sleep(0.7)

    with_server(scenario, header_timeout_s=0.5)


def test_an_answer_that_nobody_reads_is_given_up():
    async def scenario(connect):
        reader, writer = await connect()
        writer.transport.pause_reading()
        writer.write(REQUEST.replace(b"/ ", b"/large "))
        await asyncio.sleep(0.4)
        writer.transport.resume_reading()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(2**24)

    with_server(scenario, write_timeout_s=0.1)


def test_requests_sent_together_are_all_answered():
    async def scenario(connect):
        reader, writer = await connect()
        writer.write(REQUEST * 3)
        for _ in range(3):
            await asyncio.wait_for(reader.readuntil(b"xx"), 5)

    with_server(scenario)


def test_accept_errors_are_logged_once_a_second(caplog):
    handler = AcceptErrorLog()
    with caplog.at_level(logging.ERROR):
        for _ in range(1000):
            handler(None, {"exception": OSError(errno.EMFILE, "Too many open files")})

    assert len(caplog.records) == 1
