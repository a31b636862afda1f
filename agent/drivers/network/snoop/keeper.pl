#!/usr/bin/perl
# usage: keeper.pl keep|list FILE TABLE PREFIX GROUP AWAKE_MS
# Learns which IPv4 address a frontend's DHCP server has given to which member of a segment, and keeps it in the nft set
# PREFIX + VNI of TABLE (family bridge) for as long as the server said: filters ask that set. FILE says where and of whom.
# nftables sends the answers: those that came by the frontend's port, with its MAC, and no others (`log group GROUP`, prefix
# mz + VNI). What is in the set outlives this program, and is taken up again by the next one; what is missing there, or
# nobody has learnt, is put right once a second. While it runs, the frontend itself is in the set for AWAKE_MS at a time: without
# that hosts let no answer through, as nobody would learn from it, and clients ask again.
# `list` prints what the sets hold, a line for each address: place, VNI, MAC, address, seconds left.
# It believes no length in a packet. No modules but Config, and no other program is started.
use strict;
use warnings;
use Config;
use constant { CLONE_NEWNET => 0x40000000, O_NONBLOCK => 04000, ENOENT => 2, EAGAIN => 11 };
use constant { AF_NETLINK => 16, SOCK_RAW => 3, NETLINK_NETFILTER => 12, SOL_SOCKET => 1, SO_RCVTIMEO => 20, SO_RCVBUF => 8, NLMSG_ERROR => 2, NLMSG_DONE => 3, MSG_DONTWAIT => 0x40 };
use constant { REQUEST => 1, ACK => 4, DUMP => 0x300, CREATE => 0x400, NESTED => 0x8000, TYPE => 0x3fff, HEADER_BYTES => 16 };
# linux/netfilter/nfnetlink.h, nf_tables.h and nfnetlink_log.h
use constant { BATCH_BEGIN => 0x10, BATCH_END => 0x11, NFTABLES => 10, NEWSETELEM => 10 << 8 | 12, GETSETELEM => 10 << 8 | 13, DELSETELEM => 10 << 8 | 14, BRIDGE => 7 };
use constant { LIST_TABLE => 1, LIST_SET => 2, LIST_ELEMENTS => 3, LIST_ELEM => 1, ELEM_KEY => 1, ELEM_TIMEOUT => 4, ELEM_EXPIRATION => 5, DATA_VALUE => 1, KEY_BYTES => 12 };
use constant { LOG_PACKET => 4 << 8, LOG_CONFIG => 4 << 8 | 1, CFG_CMD => 1, CFG_MODE => 2, CFG_QTHRESH => 5, CMD_BIND => 1, COPY_PACKET => 2, LOG_PAYLOAD => 9, LOG_PREFIX => 10 };
# RFC 2131, RFC 2132
use constant { BOOTREPLY => 2, ETHERNET => 1, FIXED_BYTES => 240, OPTION_LEASE => 51, OPTION_OVERLOAD => 52, OPTION_TYPE => 53, DHCPACK => 5 };
use constant { FILE_BYTES_MAX => 1 << 22, SNAP_BYTES => 1500, ANSWER_SECONDS => 2, LOOK_MS => 1000, POLL_SECONDS => 0.25, BUFFER_BYTES => 1 << 20, PACKETS_A_TURN => 256 };
# Each transaction makes whoever lists tables of that namespace begin anew: a frontend does not decide how many there are.
use constant { WRITE_MS => 100, WRITE_BURST => 10 };

my ($mode, $file, $table, $prefix, $group, $awake) = @ARGV;
die "usage: keeper.pl keep|list FILE TABLE PREFIX GROUP AWAKE_MS\n" unless defined $awake;
# setns has no name in perl; the ABI is that of the perl that runs this
my %numbers = (x86_64 => 308, aarch64 => 268, riscv64 => 268, powerpc64le => 350, s390x => 339);
my ($machine) = $Config{archname} =~ /^([^-]+)/;
my $setns = $numbers{$machine} or die "the number of setns on $machine is not known\n";
open(my $own, '<', '/proc/self/ns/net') or die "own namespace: $!\n";
$| = 1;

my $sequence = 0;
# by `place VNI`: whom to learn of, and what was learnt: address and end by MAC; undef until the set was looked at
my $segments = {};
# by place (a namespace's name, or `-` for the host's own): which one that is, and sockets in it
my %spaces;
my %told;
my $file_mark = '';

if ($mode eq 'list') {
  $segments = read_file() // die "$file cannot be understood\n";
  for my $key (sort keys %$segments) {
    my $segment = $segments->{$key};
    my $space = open_space($segment->{place}, 0) // next;
    my $have = dump_set($space->{nft}, $segment->{vni}) // next;
    for (sort keys %$have) {
      my ($mac, $ip) = split / /;
      print "$key $mac $ip " . int($have->{$_} / 1000) . "\n" if $segment->{macs}{$mac};
    }
  }
  exit 0;
}

setpriority(0, 0, -10); # clients wait; where it is not allowed, so be it
my $ending = 0;
$SIG{TERM} = $SIG{INT} = sub { $ending = 1 };
my $looked = -LOOK_MS;
until ($ending) {
  reread();
  visit($_) for sort keys %{{ map { $_->{place} => 1 } values %$segments }};
  if (now() - $looked >= LOOK_MS) {
    $looked = now();
    keep($_) for sort keys %$segments;
  }
  listen_once();
  write_learnt($_) for keys %spaces;
}
# from now on no answer passes unseen
for my $key (keys %$segments) {
  my $segment = $segments->{$key};
  my $space = $spaces{$segment->{place}};
  change($space->{nft}, [$segment->{vni}, $segment->{frontend}, 0]) if $space;
}
exit 0;

sub slurp {
  my ($path) = @_;
  $! = 0;
  open(my $handle, '<', $path) or return undef;
  my $text = '';
  read($handle, $text, FILE_BYTES_MAX + 1);
  return $text;
}

# milliseconds since boot, those of a suspended machine included; it shows hundredths of a second
sub now {
  my ($seconds, $hundredths) = (slurp('/proc/uptime') // '') =~ /\A(\d+)\.(\d\d) / or die "no time\n";
  return $seconds * 1000 + $hundredths * 10;
}

# once for each change
sub report {
  my ($what, $wrong) = @_;
  print STDERR "$what: $wrong\n" if $wrong ne '' && $wrong ne ($told{$what} // '');
  $told{$what} = $wrong;
}

# @returns the segments that FILE names; undef when a single line is not as it should be
sub read_file {
  my $text = slurp($file);
  return $! == ENOENT ? {} : undef unless defined $text;
  return undef if length $text > FILE_BYTES_MAX || $text !~ s/\Amusubi-snoop 1\n//;
  my %found;
  my ($mac, $ip) = ('[0-9a-f]{2}(?::[0-9a-f]{2}){5}', '\d{1,3}(?:\.\d{1,3}){3}');
  for my $line (split /\n/, $text) {
    my ($place, $vni, $frontend, $barred, $macs) = $line =~ /\A(-|mz-[0-9a-f]{6}) ([0-9a-f]{6}) ($mac $ip) ($ip(?:,$ip)*) ($mac(?:,$mac)*)\z/ or return undef;
    $found{"$place $vni"} = { place => $place, vni => $vni, frontend => $frontend, barred => { map { $_ => 1 } split /,/, $barred }, macs => { map { $_ => 1 } split /,/, $macs } };
  }
  return \%found;
}

# FILE is replaced as a whole: another one has another number
sub reread {
  my @about = stat $file;
  my $mark = @about ? join ' ', @about[0, 1, 7, 9] : 'none';
  return if $mark eq $file_mark;
  $file_mark = $mark;
  my $found = read_file();
  # what cannot be understood changes nothing
  report($file, defined $found ? '' : 'cannot be understood');
  return unless defined $found;
  for my $key (keys %$found) {
    my ($new, $old) = ($found->{$key}, $segments->{$key} // next);
    next unless $old->{leases};
    $new->{leases} = { map { $_ => $old->{leases}{$_} } grep { $new->{macs}{$_} && !$new->{barred}{$old->{leases}{$_}[0]} } keys %{$old->{leases}} };
  }
  $segments = $found;
  my %wanted = map { $_->{place} => 1 } values %$segments;
  delete @spaces{grep { !$wanted{$_} } keys %spaces};
  $looked = -LOOK_MS;
}

# A socket keeps its namespace alive: it goes with the name.
sub visit {
  my ($place) = @_;
  my @about = $place eq '-' ? (0, 0) : stat "/run/netns/$place";
  my $which = @about ? "$about[0] $about[1]" : '';
  return if $spaces{$place} && $spaces{$place}{which} eq $which;
  delete $spaces{$place};
  return if $which eq '';
  my $space = eval { open_space($place, 1) };
  report($place, $space ? '' : ($@ || 'no namespace') =~ s/\n.*//sr);
  return unless $space;
  $space->{which} = $which;
  $spaces{$place} = $space;
  $looked = -LOOK_MS;
}

# @returns sockets within a namespace; undef when there is none. @throws what went wrong
sub open_space {
  my ($place, $hear) = @_;
  my $inside = $own;
  # a name may lead anywhere: to a pipe, which would not open until somebody writes
  if ($place ne '-') {
    $inside = undef;
    sysopen($inside, "/run/netns/$place", O_NONBLOCK) or return undef;
    return undef if syscall($setns, fileno $inside, CLONE_NEWNET) != 0;
  }
  my $space = eval { { nft => socket_here(), $hear ? (log => hear()) : () } };
  my $wrong = $@;
  syscall($setns, fileno $own, CLONE_NEWNET) == 0 or die "cannot return: $!\n" if $place ne '-';
  die $wrong unless $space;
  return $space;
}

sub socket_here {
  socket(my $socket, AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER) or die "socket: $!\n";
  setsockopt($socket, SOL_SOCKET, SO_RCVTIMEO, pack 'l! l!', ANSWER_SECONDS, 0) or die "SO_RCVTIMEO: $!\n";
  return $socket;
}

sub hear {
  my $socket = socket_here();
  setsockopt($socket, SOL_SOCKET, SO_RCVBUF, pack 'l', BUFFER_BYTES);
  my $config = sub {
    my $text = message(LOG_CONFIG, REQUEST | ACK, 0, $group, attribute(@_));
    syswrite($socket, $text) // die "asking for group $group: $!\n";
    my $wrong = answers($socket, $sequence);
    die "group $group of the log: $wrong\n" if $wrong ne '';
  };
  $config->(CFG_CMD, pack 'C', CMD_BIND);
  $config->(CFG_MODE, pack 'N C C', SNAP_BYTES, COPY_PACKET, 0);
  # at once, one by one
  $config->(CFG_QTHRESH, pack 'N', 1);
  return $socket;
}

sub attribute {
  my ($type, $value) = @_;
  my $bytes = 4 + length $value;
  return pack('S S', $bytes, $type) . $value . "\0" x (-$bytes % 4);
}

# @returns values by type; of one that is there often, all
sub attributes {
  my ($bytes) = @_;
  my %found;
  while (length $bytes >= 4) {
    my ($size, $type) = unpack 'S S', $bytes;
    last if $size < 4 || $size > length $bytes;
    my $whole = substr $bytes, 0, $size;
    substr $bytes, 0, $size + -$size % 4 > length $bytes ? length $bytes : $size + -$size % 4, '';
    push @{$found{$type & TYPE}}, substr $whole, 4;
  }
  return \%found;
}

sub message {
  my ($type, $flags, $family, $subsystem, $body) = @_;
  return pack('L S S L L', HEADER_BYTES + 4 + length $body, $type, $flags, ++$sequence, 0) . pack('C C n', $family, 0, $subsystem) . $body;
}

# What has come on a socket, message by message, to `$each`, until that says that it is done.
sub receive {
  my ($socket, $flags, $each) = @_;
  for (;;) {
    recv($socket, my $part, 1 << 18, $flags) // return $!;
    while (length $part >= HEADER_BYTES) {
      my ($bytes, $kind, $number) = (unpack 'L S S L', $part)[0, 1, 3];
      return 'an answer that cannot be read' if $bytes < HEADER_BYTES || $bytes > length $part;
      my $padded = $bytes + -$bytes % 4;
      my $whole = substr $part, 0, $bytes;
      substr $part, 0, $padded > length $part ? length $part : $padded, '';
      my $done = $each->($kind, $number, $whole);
      return $done if defined $done;
    }
  }
}

# @returns what the kernel says of a request, empty when it is done
sub answers {
  my ($socket, $last) = @_;
  return receive($socket, 0, sub {
    my ($kind, $number, $whole) = @_;
    return undef if $kind != NLMSG_ERROR;
    my $error = unpack 'x16 l', $whole;
    return $number == $last ? '' : undef if $error == 0;
    $! = -$error;
    return "the kernel refuses: $!";
  });
}

# @returns milliseconds left by `MAC address`; undef when there is no such set
sub dump_set {
  my ($socket, $vni) = @_;
  my $body = attribute(LIST_TABLE, "$table\0") . attribute(LIST_SET, "$prefix$vni\0");
  syswrite($socket, message(GETSETELEM, REQUEST | DUMP, BRIDGE, 0, $body)) // return undef;
  my $asked = $sequence;
  my %found;
  my $end = receive($socket, 0, sub {
    my ($kind, $number, $whole) = @_;
    return undef if $number != $asked;
    return 'no set' if $kind == NLMSG_ERROR;
    return '' if $kind == NLMSG_DONE;
    my $lists = attributes(substr $whole, HEADER_BYTES + 4)->{+LIST_ELEMENTS} // [];
    for my $element (map { @{attributes($_)->{+LIST_ELEM} // []} } @$lists) {
      my $parts = attributes($element);
      my $key = attributes($parts->{+ELEM_KEY}[0] // '')->{+DATA_VALUE}[0] // next;
      next if length $key != KEY_BYTES;
      # without an end it is for ever
      my $left = $parts->{+ELEM_EXPIRATION} ? unpack('Q>', $parts->{+ELEM_EXPIRATION}[0]) : 0xffffffff * 1000;
      $found{join(':', unpack '(H2)6', $key) . ' ' . join('.', unpack 'x8 C4', $key)} = $left;
    }
    return undef;
  });
  return $end eq '' ? \%found : undef;
}

# One transaction: VNI, `MAC address` and its time-out in milliseconds, 0 for what goes.
# Kernels before 6.12 do not prolong an element that is added again, and what is not there cannot be taken away.
sub change {
  my ($socket, @pairs) = @_;
  return '' if @pairs == 0;
  my @steps = map { my ($vni, $pair, $left) = @$_; ([NEWSETELEM, $vni, $pair, 0], [DELSETELEM, $vni, $pair, 0], $left > 0 ? [NEWSETELEM, $vni, $pair, $left] : ()) } @pairs;
  my $text = message(BATCH_BEGIN, REQUEST, 0, NFTABLES, '');
  while (my $step = shift @steps) {
    my ($type, $vni, $pair, $left) = @$step;
    my ($mac, $ip) = split / /, $pair;
    my $key = attribute(ELEM_KEY | NESTED, attribute(DATA_VALUE, pack('(H2)6 x2 C4', split(/:/, $mac), split(/\./, $ip))));
    my $element = $key . ($left > 0 ? attribute(ELEM_TIMEOUT, pack 'Q>', $left) : '');
    my $body = attribute(LIST_TABLE, "$table\0") . attribute(LIST_SET, "$prefix$vni\0") . attribute(LIST_ELEMENTS | NESTED, attribute(LIST_ELEM | NESTED, $element));
    $text .= message($type, REQUEST | ($type == NEWSETELEM ? CREATE : 0) | (@steps == 0 ? ACK : 0), BRIDGE, 0, $body);
  }
  my $last = $sequence;
  $text .= message(BATCH_END, REQUEST, 0, NFTABLES, '');
  syswrite($socket, $text) // return "asking: $!";
  return answers($socket, $last);
}

# The set holds what was learnt, and nothing else.
sub keep {
  my ($key) = @_;
  my $segment = $segments->{$key};
  my $space = $spaces{$segment->{place}} // return;
  my $have = dump_set($space->{nft}, $segment->{vni}) // return;
  my $now = now();
  if (!$segment->{leases}) {
    # those of an earlier keeper; of two addresses of one member the one that lasts
    for (sort { $have->{$a} <=> $have->{$b} } keys %$have) {
      my ($mac, $ip) = split / /;
      $segment->{leases}{$mac} = [$ip, $now + $have->{$_}] if $segment->{macs}{$mac} && !$segment->{barred}{$ip};
    }
    $segment->{leases} //= {};
  }
  my $leases = $segment->{leases};
  delete @$leases{grep { $leases->{$_}[1] <= $now } keys %$leases};
  my %want = map { ("$_ $leases->{$_}[0]" => $leases->{$_}[1] - $now) } keys %$leases;
  my $vni = $segment->{vni};
  my @gone = map { [$vni, $_, 0] } grep { !exists $want{$_} && $_ ne $segment->{frontend} } keys %$have;
  my @missing = map { [$vni, $_, $want{$_}] } grep { !exists $have->{$_} } keys %want;
  report($key, change($space->{nft}, @gone, @missing, [$vni, $segment->{frontend}, $awake]));
}

sub listen_once {
  my ($ready, %by) = ('');
  for my $place (keys %spaces) {
    my $number = fileno $spaces{$place}{log};
    vec($ready, $number, 1) = 1;
    $by{$number} = $place;
  }
  my $waits = grep { %{$_->{learnt} // {}} } values %spaces;
  return if select($ready, undef, undef, $waits ? WRITE_MS / 1000 : POLL_SECONDS) <= 0;
  for my $number (grep { vec($ready, $_, 1) } keys %by) {
    my $place = $by{$number};
    my $count = 0;
    receive($spaces{$place}{log}, MSG_DONTWAIT, sub {
      my ($kind, undef, $whole) = @_;
      return undef if $kind != LOG_PACKET;
      my $parts = attributes(substr $whole, HEADER_BYTES + 4);
      my ($vni) = ($parts->{+LOG_PREFIX}[0] // '') =~ /\Amz([0-9a-f]{6})\0?\z/;
      my $segment = defined $vni ? $segments->{"$place $vni"} : undef;
      learn($segment, $parts->{+LOG_PAYLOAD}[0] // '') if $segment;
      return ++$count >= PACKETS_A_TURN ? '' : undef;
    });
  }
}

sub learn {
  my ($segment, $packet) = @_;
  my ($mac, $ip, $seconds) = acknowledged($packet) or return;
  return if !$segment->{macs}{$mac} || $segment->{barred}{$ip};
  my $space = $spaces{$segment->{place}} // return;
  my $leases = $segment->{leases} //= {};
  # Whose an address is, stays so until that lease ends: by another's client identifier anybody has the server say something else.
  my ($holder) = grep { $_ ne $mac && $leases->{$_}[0] eq $ip && $leases->{$_}[1] > now() } keys %$leases;
  report("$segment->{place} $segment->{vni} $mac", $holder ? "$ip is still that of $holder: not learnt" : '');
  return if $holder;
  my $learnt = $space->{learnt}{$segment->{vni}} //= {};
  $learnt->{"$mac $leases->{$mac}[0]"} = 0 if $leases->{$mac};
  $learnt->{"$mac $ip"} = $seconds * 1000;
  $leases->{$mac} = [$ip, now() + $seconds * 1000];
}

# What was learnt in a namespace, in one transaction: at once, unless there were many just now; then every WRITE_MS.
sub write_learnt {
  my ($place) = @_;
  my $space = $spaces{$place};
  my $learnt = $space->{learnt} // {};
  my ($now, $next) = (now(), $space->{next} // 0);
  return if !%$learnt || $now < $next - WRITE_BURST * WRITE_MS;
  $space->{next} = ($next > $now ? $next : $now) + WRITE_MS;
  delete $space->{learnt};
  my @changes = map { my $vni = $_; map { [$vni, $_, $learnt->{$vni}{$_}] } keys %{$learnt->{$vni}} } keys %$learnt;
  # one whose set has gone stops none of the others; `keep` puts right what is missing
  if (change($space->{nft}, @changes) ne '') {
    for my $vni (keys %$learnt) { report("$place $vni", change($space->{nft}, grep { $_->[0] eq $vni } @changes)) }
  }
}

# @returns MAC, address and seconds of a lease that is given; nothing when the packet is anything else
sub acknowledged {
  my ($packet) = @_;
  return if length $packet < 20;
  my ($head, $bytes, $fragment, $protocol) = unpack 'C x n x2 n x C', $packet;
  my $skip = ($head & 15) * 4;
  return if $head >> 4 != 4 || $skip < 20 || $bytes > length $packet || $bytes < $skip + 8 + FIXED_BYTES || $protocol != 17 || $fragment & 0x3fff;
  my ($from, $to, $udp) = unpack 'n n n', substr $packet, $skip, 6;
  return if $from != 67 || $to != 68 || $udp < 8 + FIXED_BYTES || $skip + $udp > $bytes;
  my $body = substr $packet, $skip + 8, $udp - 8;
  my ($op, $kind, $mac_bytes) = unpack 'C C C', $body;
  # an answer to a relay is for the relay
  return if $op != BOOTREPLY || $kind != ETHERNET || $mac_bytes != 6 || substr($body, 24, 4) ne "\0\0\0\0" || substr($body, 236, 4) ne "\x63\x82\x53\x63";
  my %options;
  options(substr($body, FIXED_BYTES), \%options) or return;
  my $overload = $options{+OPTION_OVERLOAD} // "\0";
  return if length $overload != 1;
  if (ord($overload) & 1) { options(substr($body, 108, 128), \%options) or return }
  if (ord($overload) & 2) { options(substr($body, 44, 64), \%options) or return }
  my ($type, $lease) = ($options{+OPTION_TYPE} // '', $options{+OPTION_LEASE} // '');
  return if $type ne chr DHCPACK || length $lease != 4;
  my @ip = unpack 'C4', substr $body, 16, 4;
  my $seconds = unpack 'N', $lease;
  # nobody's, loopback, multicast, reserved; an answer to DHCPINFORM names none
  return if $seconds == 0 || $ip[0] == 0 || $ip[0] == 127 || $ip[0] >= 224;
  return (join(':', unpack '(H2)6', substr $body, 28, 6), join('.', @ip), $seconds);
}

# Options of one field. One that is there twice is one that was cut in two (RFC 3396). @returns false when it is cut off
sub options {
  my ($bytes, $found) = @_;
  my $at = 0;
  while ($at < length $bytes) {
    my $code = ord substr $bytes, $at++, 1;
    next if $code == 0;
    return 1 if $code == 255;
    return 0 if $at >= length $bytes;
    my $size = ord substr $bytes, $at++, 1;
    return 0 if $at + $size > length $bytes;
    $found->{$code} = ($found->{$code} // '') . substr $bytes, $at, $size;
    $at += $size;
  }
  return 1;
}
