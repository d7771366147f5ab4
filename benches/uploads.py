"""Bodies of 100 MB against a running `eraser serve`, really sent, by 32 clients at once: with their length announced and in
chunks. uploads.py PORT PID; says how far each came, and the server's resident memory over two rounds.
"""
import collections
import http.client
import sys
import threading
import time

port, pid = int(sys.argv[1]), sys.argv[2]
BLOCK = b'{"prompt":"' + b"x" * 65525
BLOCKS = 1600


def resident():
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def upload(path, announced, seen):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    sent = 0
    try:
        client.putrequest("POST", path)
        client.putheader("content-type", "application/json")
        if announced:
            client.putheader("content-length", str(BLOCKS * len(BLOCK)))
        else:
            client.putheader("transfer-encoding", "chunked")
        client.endheaders()
        for _ in range(BLOCKS):
            client.send(BLOCK if announced else b"%x\r\n%s\r\n" % (len(BLOCK), BLOCK))
            sent += len(BLOCK)
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before the end
    try:
        outcome = client.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        outcome = type(error).__name__
    seen[path, "announced" if announced else "chunked", outcome].append(sent)


most, over = resident(), False


def watch():
    global most
    while not over:
        most = max(most, resident())
        time.sleep(0.002)


watcher = threading.Thread(target=watch)
watcher.start()
for turn in (1, 2):
    before, seen = resident(), collections.defaultdict(list)
    clients = [
        threading.Thread(target=upload, args=(path, announced, seen))
        for _ in range(8) for path in ("/v1/completions", "/v1/chat/completions") for announced in (True, False)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    time.sleep(1)
    for (path, how, outcome), sent in sorted(seen.items(), key=str):
        print(f"{path} {how}: {outcome}, {len(sent)} clients, at most {max(sent) / 2**20:.0f} MB sent")
    print(f"round {turn}: {before:.0f} MB before, {most:.0f} at most, {resident():.0f} after")
over = True
client = http.client.HTTPConnection("127.0.0.1", port)
client.request("GET", "/v1/models")
assert client.getresponse().status == 200
