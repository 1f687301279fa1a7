from command_line import run, words


def test_info_shows_settings_and_sizes(ring_model):
    shown = words(run("info", ring_model).stdout)

    for part in ("name Ring", "users 20", "items 10", "events 80", "hidden_dim 8", "format corerec.bert4rec"):
        assert part in shown
    assert "warmup_steps from the log" in shown
    assert "feedforward_dim 32" in shown
