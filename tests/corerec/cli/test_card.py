import pytest
from typer.testing import CliRunner

from corerec.cli.app import app
from corerec.engines.bert4rec import Bert4Rec


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def ring(tmp_path_factory, cycle_log):
    folder = tmp_path_factory.mktemp("card")
    model = Bert4Rec("Ring", epochs=1, hidden_dim=8, num_heads=2, max_seq_len=8).fit_interactions(cycle_log)
    model.save(folder / "ring.model")
    store = cycle_log.sequences
    users, items = cycle_log.users.ids.repeat(store.lengths), cycle_log.items.ids[store.items - 1]
    rows = [f"{user},{item},{at}" for at, (user, item) in enumerate(zip(users, items, strict=True))]
    (folder / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    return folder


def test_a_card_with_figures_and_the_commands_that_take_its_folder(ring):
    assert run("evaluate", ring / "ring.model", ring / "log.csv", "--json", ring / "f.json", "-q").exit_code == 0
    result = run("card", ring / "ring.model", "-o", ring / "hub", "--metrics", ring / "f.json", "--license", "mit")
    assert result.exit_code == 0, result.output
    assert "hub/config.json: " in result.stdout
    card = (ring / "hub" / "README.md").read_text()
    assert "Measured by `corerec evaluate`: 72 users" in card
    assert "answers were trained on**" in card  # the model saw the whole log

    info = run("info", ring / "hub")
    assert info.exit_code == 0, info.output
    assert "not stored" in info.stdout
    assert run("recommend", ring / "hub", "--history", "a,b").exit_code == 0
    asked = run("recommend", ring / "hub", "--user", "user 0")
    assert asked.exit_code == 2
    assert "saved without histories" in asked.stderr


def test_a_folder_without_a_model_is_one_line(ring, tmp_path):
    result = run("info", tmp_path)
    assert result.exit_code == 2
    assert "it has no model.safetensors" in result.stderr


def test_what_is_there_already_is_left_alone(ring, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    result = run("card", ring / "ring.model", "-o", tmp_path)
    assert result.exit_code == 2
    assert "name another folder" in result.stderr
    assert (tmp_path / "README.md").read_text() == "mine"
