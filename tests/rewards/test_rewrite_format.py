from realgen.rewards import RewriteFormat


def test_is_the_share_of_rows_in_format(rewritten):
    output = RewriteFormat()(rewritten(["the moon", None, "grain", None, None, "a cat"]))
    assert output.components["rewriteformat"].tolist() == [[1, 0, 1], [0, 0, 1]]
