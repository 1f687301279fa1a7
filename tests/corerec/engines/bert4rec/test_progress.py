from corerec.engines.bert4rec import Bert4Rec

TINY = {"epochs": 1, "hidden_dim": 8, "max_seq_len": 8}


def test_progress_is_the_recipe_and_one_line_an_epoch_on_a_pipe(cycle_log, capfd):
    Bert4Rec("Ring", verbose=True, **{**TINY, "epochs": 2}).fit_interactions(cycle_log)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("Ring  2 epochs, 12 steps of 16 windows on average")
    assert [line.split("  loss")[0] for line in lines[1:]] == ["Ring  epoch 1/2", "Ring  epoch 2/2"]
