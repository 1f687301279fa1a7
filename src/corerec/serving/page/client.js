/** Questions to the server. A newer question on a line cancels the older one, so a stale answer never arrives. */
import { storage } from "./storage.js";

const LONGEST_WAIT_S = 15;
const TOKEN = "corerec-token"; // in sessionStorage: gone with the tab

export class TokenNeeded extends Error {}
export class Refused extends Error {}
class Busy extends Error {
  constructor(message, wait_s) {
    super(message);
    this.wait_s = wait_s;
  }
}

const session = storage("sessionStorage");
export const token = { get: () => session.getItem(TOKEN), set: (text) => session.setItem(TOKEN, text) };

export class Line {
  #newest = null;
  #tell;

  /** @param tell called with one sentence while the line waits to ask again, with null once it is answered. */
  constructor(tell) {
    this.#tell = tell;
  }

  /** Drop the question that is under way, if any. */
  cancel() {
    this.#newest?.abort();
    this.#newest = null;
    this.#tell(null);
  }

  /**
   * The answer's JSON; null where a newer question took this one's place.
   * A full or absent server is asked again, ever more slowly.
   */
  async ask(path, body) {
    this.#newest?.abort();
    const mine = (this.#newest = new AbortController());
    for (let attempt = 0; ; attempt++) {
      try {
        const answer = await request(path, body, mine.signal);
        if (mine.signal.aborted) return null;
        this.#tell(null);
        return answer;
      } catch (error) {
        if (mine.signal.aborted) return null;
        if (!(error instanceof Busy)) throw error;
        // Up to a quarter more at random, or all waiting pages come back at the same moment.
        const backoff_s = Math.min(LONGEST_WAIT_S, 0.5 * 2 ** attempt) * (1 + Math.random() / 4);
        const wait_s = Math.max(error.wait_s, backoff_s);
        this.#tell(`${error.message}; asking again in ${Math.ceil(wait_s)} s.`);
        await pause(wait_s, mine.signal);
        if (mine.signal.aborted) return null;
      }
    }
  }
}

async function request(path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body && JSON.stringify(body),
      signal,
    });
    if (response.ok) return await response.json();
  } catch {
    throw new Busy("The server does not answer", 1);
  }
  if (response.status === 401) throw new TokenNeeded();
  if (response.status === 503) throw new Busy("The server is busy", Number(response.headers.get("Retry-After")) || 0);
  const problem = await response.json().catch(() => ({}));
  throw new Refused(problem.detail || problem.title || `The server could not answer (status ${response.status}).`);
}

function pause(wait_s, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, wait_s * 1000);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
