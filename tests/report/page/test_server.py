"""A served page follows the records, on this machine alone."""

import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from crvq.report.page.server import Page, PageError, page_server
from crvq.report.runs import NoRunsError


@contextmanager
def served(results):
    server = page_server(Page(results), results, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def read(address, **headers):
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def test_the_page_waits_for_a_first_run_and_follows_changes(save_run, tmp_path):
    (tmp_path / "results").mkdir()
    with served(tmp_path / "results") as address:
        assert "waiting for the first record" in read(address)
        before = read(f"{address}/stamp")
        save_run("a/1")
        assert read(f"{address}/stamp") != before
        assert 'id="data"' in read(address)


def test_other_hosts_names_and_paths_are_refused(save_run):
    with served(save_run("a/1")) as address:
        for path, headers, code in (("/", {"Host": "evil.example:80"}, 403), ("/x", {}, 404)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                read(address + path, **headers)
            assert refused.value.code == code


def test_a_folder_that_would_be_waited_for_in_vain_and_a_taken_port(save_run):
    results = save_run("a/1")
    with pytest.raises(NoRunsError, match="--experiment a"):
        page_server(Page(results / "a"), results / "a", 0)
    taken = page_server(Page(results), results, 0)
    with pytest.raises(PageError, match="--port 0"):
        page_server(Page(results), results, taken.server_address[1])
    taken.server_close()
