"""Delays every frame between two interfaces by a fixed time, for kernels without netem.

usage: relay.py INTERFACE INTERFACE DELAY_FILE

DELAY_FILE holds the one-way delay in milliseconds; SIGHUP reads it again. Frames are moved in
batches with recvmmsg and sendmmsg, so that Python runs once per batch and not once per frame; a
batch is released as a whole, in order. Offloads must be off on both links: a slot takes one frame.
"""
import collections
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import sys
import time

FRAMES = 32              # per batch
SLOT = 2048              # bytes per frame
BATCHES_MAX = 1024       # under way at once; beyond that frames stay in the socket, then are lost
SOCKET_BYTES = 16 << 20
GATHER_S = 0.0002        # when busy, let frames gather for this long: fewer, fuller batches
HEADER = 8               # struct mmsghdr in 64-bit words: 7 of msghdr, then the length

PACKET_ADD_MEMBERSHIP, PACKET_IGNORE_OUTGOING, PACKET_MR_PROMISC = 1, 23, 1
SOL_PACKET, SO_SNDBUFFORCE, SO_RCVBUFFORCE = 263, 32, 33
ETH_P_ALL, MSG_DONTWAIT = 3, 0x40

libc = ctypes.CDLL(None, use_errno=True)


class Batch:
    """Buffers, their iovecs and message headers, laid out once and used again."""

    FULL = memoryview(bytearray(struct.pack('Q', SLOT) * FRAMES)).cast('Q')

    def __init__(self):
        self.count = FRAMES
        self.data = ctypes.create_string_buffer(FRAMES * SLOT)
        self.iov_mem = ctypes.create_string_buffer(FRAMES * 16)
        self.hdr_mem = ctypes.create_string_buffer(FRAMES * HEADER * 8)
        self.iov = memoryview(self.iov_mem).cast('B').cast('Q')
        self.hdr = memoryview(self.hdr_mem).cast('B').cast('Q')
        self.address = ctypes.addressof(self.hdr_mem)
        for i in range(FRAMES):
            self.iov[2 * i] = ctypes.addressof(self.data) + i * SLOT
            self.hdr[HEADER * i + 2] = ctypes.addressof(self.iov_mem) + i * 16
            self.hdr[HEADER * i + 3] = 1

    def receive(self, fd):
        """Fills the batch with what is there; the number of frames, 0 for none."""
        self.iov[1:2 * self.count:2] = self.FULL[:self.count]
        n = libc.recvmmsg(fd, ctypes.c_void_p(self.address), FRAMES, MSG_DONTWAIT, None)
        self.count = max(n, 0)
        if n > 0:
            self.iov[1:2 * n:2] = self.hdr[7:HEADER * n:HEADER]
        return self.count

    def send(self, fd):
        """Sends all frames; one that the link refuses is lost, as on any network."""
        done = 0
        while done < self.count:
            n = libc.sendmmsg(fd, ctypes.c_void_p(self.address + done * HEADER * 8), self.count - done, MSG_DONTWAIT)
            if n < 0 and ctypes.get_errno() == errno.ENETDOWN:
                return
            done += max(n, 1)


def open_link(name):
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    link.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BYTES)
    link.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BYTES)
    link.bind((name, ETH_P_ALL))
    membership = struct.pack('IHH8s', socket.if_nametoindex(name), PACKET_MR_PROMISC, 0, b'')
    link.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
    return link


def main():
    first, second, delay_file = open_link(sys.argv[1]), open_link(sys.argv[2]), sys.argv[3]
    other = {first.fileno(): second.fileno(), second.fileno(): first.fileno()}
    links = list(other)
    delay = 0.0

    def read_delay(*_):
        nonlocal delay
        with open(delay_file, encoding='ascii') as file:
            delay = float(file.read()) / 1000

    signal.signal(signal.SIGHUP, read_delay)
    read_delay()
    print('ready', file=sys.stderr, flush=True)

    waiting = collections.deque()
    free = []
    made = 0
    last_read = 0.0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, fd, batch = waiting.popleft()
            batch.send(fd)
            free.append(batch)
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        room = free or made < BATCHES_MAX
        readable = select.select(links if room else [], [], [], timeout)[0]
        if readable:
            now = time.monotonic()
            if now - last_read < GATHER_S:
                time.sleep(GATHER_S)
            last_read = time.monotonic()
        for fd in readable:
            while free or made < BATCHES_MAX:
                if not free:
                    free.append(Batch())
                    made += 1
                batch = free.pop()
                n = batch.receive(fd)
                if n == 0:
                    free.append(batch)
                    # A link that was taken down reports that once; it is read again when it is back.
                    break
                waiting.append((time.monotonic() + delay, other[fd], batch))
                if n < FRAMES:
                    break


if __name__ == '__main__':
    try:
        main()
    except OSError as error:
        sys.exit('relay: ' + os.strerror(error.errno) if error.errno else str(error))
