JSON = {"Content-Type": "application/json"}


def test_requests_that_come_together_are_scored_together(client, model):
    sizes, answer = [], model.answer
    model.answer = lambda questions, **options: sizes.append(len(questions)) or answer(questions, **options)

    responses = client.gather(*(client.http.post("/v1/recommend", json={"history": [n]}) for n in range(5)))

    assert sizes == [5]
    for n, response in enumerate(responses):
        expected = model.recommend(history=[n])
        assert [row["item_id"] for row in response.json()["recommendations"]] == expected


def test_a_question_that_fails_the_model_does_not_fail_its_neighbours(client, model, problem):
    answer = model.answer

    def fragile(questions, **options):
        if any(question.history == [3] for question in questions):
            raise RuntimeError("a bug")
        return answer(questions, **options)

    model.answer = fragile

    good, bad = client.gather(*(client.http.post("/v1/recommend", json={"history": [n]}) for n in (1, 3)))

    assert good.status_code == 200
    problem(bad, 500)
