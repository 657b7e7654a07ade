"""Guess passwords over forty connections: `python -m tests.faults.guesser PORT GUESSES`. Prints what was answered."""

import http.client
import json
import re
import sys
import threading
from collections import Counter
from urllib.parse import urlencode

CONNECTIONS = 40
SIGN_IN = "/dashboard/sign-in"


def main(port: int, guesses: int) -> None:
    """Guess, and print how often each status was answered."""
    opened = http.client.HTTPConnection("127.0.0.1", port)
    opened.request("GET", SIGN_IN)
    answer = opened.getresponse()
    cookie = str(answer.getheader("Set-Cookie")).partition(";")[0]
    token = re.findall(r'name="csrf_token" value="([^"]+)"', answer.read().decode())[0]
    headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
    statuses: Counter[int] = Counter()

    def guess(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for number in range(first, guesses, CONNECTIONS):
            email = "maha@example.com" if number % 2 else f"nobody{number}@example.com"
            form = {"csrf_token": token, "email": email, "password": f"guess {number}"}
            connection.request("POST", SIGN_IN, urlencode(form), headers)
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(CONNECTIONS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
