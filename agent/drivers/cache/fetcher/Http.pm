package Http;
# Requests to the engine's own listeners on the loopback address, several at a time, without waiting
# for any: a request is a hash, its `done` is called once with it when it has ended, well or not.
use strict;
use warnings;
use Errno ();
use Fcntl qw(F_SETFL O_NONBLOCK);
use Clock;

use constant IDLE_SECONDS => 120;       # without a byte: the frontend, or the way to it, is stuck
use constant HEAD_BYTES_MAX => 65_536;
use constant READ_BYTES => 65_536;
# <sys/socket.h> of Linux, but for MIPS: the module Socket is a megabyte of memory
use constant { AF_INET => 2, SOCK_STREAM => 1 };

my @running;

sub running { return scalar @running }

# What nodes write as Host for a port: objects are kept under it.
sub host { my ($name, $port) = @_; return $port == 80 ? $name : "$name:$port" }

# {listen, host, path, range, sink, unless_kept} -> {status, way, store, total, bytes, error}; `sink` gets the body piece by
# piece; `unless_kept`: without a body when the engine has it already
sub start {
  my ($request) = @_;
  socket(my $socket, AF_INET, SOCK_STREAM, 0) or return fail($request, "socket: $!");
  fcntl($socket, F_SETFL, O_NONBLOCK);
  my $ok = connect($socket, pack('S n C4 x8', AF_INET, $request->{listen}, 127, 0, 0, 1));
  return fail($request, "the engine takes no connection: $!") unless $ok || $!{EINPROGRESS};
  my $range = defined $request->{range} ? "Range: bytes=$request->{range}\r\n" : '';
  %$request = (%$request, socket => $socket, head => '', bytes => 0, at => time, status => 0, store => '', total => undef, length => undef,
    out => "GET $request->{path} HTTP/1.1\r\nHost: $request->{host}\r\nUser-Agent: musubi\r\nConnection: close\r\n$range\r\n");
  push @running, $request;
}

sub fail {
  my ($request, $error) = @_;
  $request->{error} = $error;
  close delete $request->{socket} if $request->{socket};
  @running = grep { $_ != $request } @running;
  $request->{done}->($request);
}

# Waits up to SECONDS for something to happen, and does it.
sub turn {
  my ($seconds) = @_;
  my ($read, $write) = ('', '');
  for (@running) {
    vec($read, fileno $_->{socket}, 1) = 1;
    vec($write, fileno $_->{socket}, 1) = 1 if length $_->{out};
  }
  return select(undef, undef, undef, $seconds) unless @running;
  my $found = select($read, $write, undef, $seconds);
  for my $request (my @now = @running) {
    next unless $request->{socket};
    my $number = fileno $request->{socket};
    if ($found > 0 && vec($write, $number, 1)) { sent($request) or next }
    if ($found > 0 && vec($read, $number, 1)) { received($request) }
    elsif (time - $request->{at} > IDLE_SECONDS) { fail($request, 'nothing came for ' . IDLE_SECONDS . ' s') }
  }
}

sub sent {
  my ($request) = @_;
  my $count = syswrite($request->{socket}, $request->{out});
  if (!defined $count) { return 1 if $!{EAGAIN} || $!{EINTR}; fail($request, "the engine takes no request: $!"); return 0 }
  substr($request->{out}, 0, $count) = '';
  return 1;
}

sub received {
  my ($request) = @_;
  my $count = sysread($request->{socket}, my $data, READ_BYTES);
  return if !defined $count && ($!{EAGAIN} || $!{EINTR});
  return fail($request, "the engine broke off: $!") unless defined $count;
  $request->{at} = time;
  return finish($request) if $count == 0;
  if (!$request->{status}) {
    $request->{head} .= $data;
    if ($request->{head} !~ s/^HTTP\/1\.[01] (\d{3})[^\n]*\n(.*?)\r?\n\r?\n//s) {
      return fail($request, 'the answer has no end of its headers') if length $request->{head} > HEAD_BYTES_MAX;
      return;
    }
    ($request->{status}, my $headers) = ($1, $2);
    (@$request{qw(way store)}) = $headers =~ /^X-Musubi-Store: (\w+) (\w+)/mi;
    $request->{$_} //= '' for qw(way store);
    ($request->{length}) = $headers =~ /^Content-Length: (\d{1,15})/mi;
    $request->{total} = $headers =~ /^Content-Range: bytes \d+-\d+\/(\d{1,15})/mi ? $1 : $request->{length};
    $data = delete $request->{head};
    return ended($request) if $request->{unless_kept} && $request->{store} eq 'HIT';
  }
  return unless length $data;
  $request->{bytes} += length $data;
  if ($request->{sink}) { my $refused = $request->{sink}->($data, $request); return fail($request, $refused) if $refused }
}

sub finish {
  my ($request) = @_;
  return fail($request, 'the engine broke off') unless $request->{status};
  return fail($request, "only $request->{bytes} of $request->{length} bytes came") if defined $request->{length} && $request->{length} != $request->{bytes};
  ended($request);
}

sub ended {
  my ($request) = @_;
  close delete $request->{socket};
  @running = grep { $_ != $request } @running;
  $request->{done}->($request);
}

1;
