import math

import pytest

from crvq.report.dashboard.published_points import published_points
from crvq.report.published import PublishedError

HEAD = (
    "source,source_url_or_repo,model,method,avg_bits,dataset_or_task,metric,value,seqlen,note,"
    "confidence\n"
)


def test_perplexities_at_few_bits(tmp_path):
    rows = [
        "P,u,M,fp,16,wikitext2,ppl,5,4096,,high",
        "P,u,M,A,~1,wikitext2,ppl,10,4096,n,high",
        "Q,u,N,B,2,c4,ppl,7,2048,,low",
        "P,u,M,A,2,arc,acc_pct,50,,,high",
        "P,u,M,C,8,wikitext2,ppl,5.1,4096,,high",
        "P,u,M,D,2,wikitext2,ppl,,4096,,high",
    ]
    (tmp_path / "published.csv").write_text(HEAD + "\n".join(rows) + "\n")
    first, second = published_points(tmp_path)
    assert (first["method"], first["bits"], first["perplexity"]) == ("A", 1.0, 10.0)
    assert (first["relative"], first["source"], first["note"]) == (2.0, "P", "n")
    assert first["where"] == "u"
    assert second["confidence"] == "low"
    assert math.isnan(second["relative"])


def test_no_file_no_points(tmp_path):
    assert published_points(tmp_path) == []


def test_a_damaged_file_is_an_error(tmp_path):
    (tmp_path / "published.csv").write_text("model\nM\n")
    with pytest.raises(PublishedError, match="lacks the columns"):
        published_points(tmp_path)
