#!/usr/bin/perl
# usage: relay.pl ADDRESS PORT FRONTENDADDRESS
# At the frontend's site: gets files from the frontend by TFTP, and gives them to the gateways of other sites by HTTP at
# ADDRESS:PORT, so that TFTP, which waits for the other end at each packet, stays inside sites. Nothing is kept: each request asks the
# frontend, and says by a digest whether what the other gateway has is still it. One process for each request. It runs in a
# folder of its own, for what is under way.
use strict;
use warnings;
use Digest::SHA;
use IO::Socket::INET;
use POSIX ':sys_wait_h';
use Socket;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);
BEGIN { my ($folder) = $0 =~ m{^(.*)/}; unshift @INC, $folder // '.' }
use Packets;

use constant PARALLEL => 16;
use constant REQUEST_SECONDS => 10;
use constant FETCH_SECONDS => 110;         # less than the other gateway waits
use constant ANSWER_SECONDS => 120;
use constant HEAD_BYTES_MAX => 8_192;
use constant FILE_BYTES_MAX => 67_108_864; # more than any loader, kernel or initrd that is sent by TFTP
use constant BLOCK_BYTES => 1_024;         # fits all that is on the way, and most frontends grant it
use constant WAIT_SECONDS => 1;
use constant TRIES => 6;
use constant STATUS => { 200 => 'OK', 304 => 'Not Modified', 400 => 'Bad Request', 403 => 'Forbidden', 404 => 'Not Found', 502 => 'Bad Gateway', 503 => 'Service Unavailable', 504 => 'Gateway Timeout' };

my ($address, $port, $frontend) = @ARGV;
die "usage: relay.pl ADDRESS PORT FRONTENDADDRESS\n" unless defined $frontend;
my $server = IO::Socket::INET->new(LocalAddr => $address, LocalPort => $port, Proto => 'tcp', Listen => 64, ReuseAddr => 1) or die "listen $address:$port: $!\n";
$SIG{PIPE} = 'IGNORE';
umask 0077;
my $children = 0;

while (1) {
  $children-- while $children > 0 && waitpid(-1, WNOHANG) > 0;
  # others wait in the kernel
  if ($children >= PARALLEL) { $children-- if waitpid(-1, 0) > 0; next }
  my $ready = '';
  vec($ready, fileno $server, 1) = 1;
  next unless select($ready, undef, undef, 1) > 0;
  my $client = $server->accept or next;
  my $child = fork;
  if (!defined $child) { answer($client, 503, 'no process') }
  elsif ($child) { $children++ }
  else {
    close $server;
    serve($client);
    POSIX::_exit(0);
  }
  close $client;
}

sub serve {
  my ($client) = @_;
  alarm REQUEST_SECONDS;
  my $head = '';
  until ($head =~ /\r?\n\r?\n/) {
    return if length $head > HEAD_BYTES_MAX || !sysread $client, $head, HEAD_BYTES_MAX, length $head;
  }
  my ($escaped) = $head =~ m{\AGET /(\S*) HTTP/1\.[01]\r?\n} or return answer($client, 400, 'GET /FILE only');
  my $path = Packets::path($escaped =~ s/%([0-9A-Fa-f]{2})/chr hex $1/ger);
  return answer($client, 400, 'no name of a file') unless defined $path;
  my ($known) = $head =~ /\nIf-None-Match: "([0-9a-f]{64})"\r?\n/i;
  alarm FETCH_SECONDS;
  my ($file, $status, $why) = fetched($path);
  if (!$file) {
    print STDERR "$path: $why\n";
    return answer($client, $status, $why);
  }
  alarm ANSWER_SECONDS;
  seek $file, 0, 0;
  my $digest = Digest::SHA->new(256)->addfile($file)->hexdigest;
  return answer($client, 304, '', $digest) if defined $known && $known eq $digest;
  seek $file, 0, 0;
  my $length = -s $file;
  print {$client} "HTTP/1.0 200 OK\r\nContent-Length: $length\r\nETag: \"$digest\"\r\nConnection: close\r\n\r\n";
  while (read $file, my $bytes, 65_536) { print {$client} $bytes or return }
  $client->flush;
}

sub answer {
  my ($client, $status, $text, $digest) = @_;
  my $tag = defined $digest ? "ETag: \"$digest\"\r\n" : '';
  my $length = $status == 304 ? '' : 'Content-Length: ' . length($text) . "\r\n";
  print {$client} "HTTP/1.0 $status ", STATUS->{$status}, "\r\n$tag${length}Connection: close\r\n\r\n$text";
  $client->flush;
}

# RFC 1350 as the receiver. A handle, or undef, a status and a reason.
sub fetched {
  my ($path) = @_;
  unlink "get.$$";
  open my $file, '+>:raw', "get.$$" or return (undef, 502, "no room: $!");
  unlink "get.$$";
  my $socket;
  socket($socket, PF_INET, SOCK_DGRAM, 0) && bind($socket, sockaddr_in(0, inet_aton($address))) or return (undef, 502, "socket: $!");
  my $host = inet_aton($frontend);
  my ($peer, $block, $expected, $bytes, $tries) = (undef, 512, 1, 0, 0);
  my $last = Packets::read_request($path, 'octet', 'blksize', BLOCK_BYTES);
  my $say = sub { send $socket, $last, 0, $peer // sockaddr_in(69, $host) };
  $say->();
  my $due = now() + WAIT_SECONDS;
  while (1) {
    my $ready = '';
    vec($ready, fileno $socket, 1) = 1;
    my $left = $due - now();
    if ($left <= 0 || select($ready, undef, undef, $left) <= 0) {
      return (undef, 504, 'the frontend does not answer by TFTP') if ++$tries > TRIES;
      $say->();
      $due = now() + WAIT_SECONDS;
      next;
    }
    my $from = recv $socket, my $packet, 65_536, 0;
    next if !defined $from || length $packet < 4;
    my ($from_port, $from_host) = sockaddr_in($from);
    next if $from_host ne $host || defined $peer && $from ne $peer;
    my ($code, $number, $rest) = unpack 'n n a*', $packet;
    if ($code == Packets::ERROR) {
      my $why = 'the frontend says: ' . (substr($rest, 0, 200) =~ s/[^\x20-\x7e]//gr);
      return (undef, $number == Packets::NOT_FOUND ? 404 : $number == Packets::DENIED ? 403 : 502, $why);
    }
    if ($code == Packets::OACK && $expected == 1) {
      my %granted = split /\0/, substr($packet, 2) =~ s/\0\z//r;
      my $asked = $granted{blksize} // 512;
      return (undef, 502, 'the frontend grants what was not asked for') if $asked !~ /^\d{1,5}\z/ || $asked < 8 || $asked > BLOCK_BYTES;
      ($peer, $block, $last) = ($from, $asked, Packets::ack(0));
    } elsif ($code == Packets::DATA && $number == ($expected & 0xffff)) {
      return (undef, 502, 'the frontend sends more than a block') if length $rest > $block;
      $peer = $from;
      $bytes += length $rest;
      return (undef, 502, 'larger than a file by TFTP may be') if $bytes > FILE_BYTES_MAX;
      print {$file} $rest or return (undef, 502, "no room: $!");
      $last = Packets::ack($expected++);
      if (length $rest < $block) {
        $say->();
        return $file->flush ? $file : (undef, 502, "no room: $!");
      }
    } else { next } # one that came twice: its acknowledgement is on its way
    $tries = 0;
    $say->();
    $due = now() + WAIT_SECONDS;
  }
}

# Of a clock that nobody sets back: what is due would be due hours later.
sub now { return clock_gettime(CLOCK_MONOTONIC) }
