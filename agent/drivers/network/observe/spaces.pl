#!/usr/bin/perl
# usage: spaces.pl SPACE_BYTES ALL_BYTES HOST_BYTES TABLE SET GUARD WAYS NAMESPACE...
# A first namespace `-` is that of this process, the host's: it may hold HOST_BYTES.
# Enters one named network namespace after the other and has the kernel list its links, addresses, permanent
# forwarding entries, permanent neighbours, the chains and rules of one table of the family `bridge`, and the elements
# of one set of it; of the host also the chains and rules of the table GUARD of the family `inet`, and the elements of its
# map WAYS. It reads of the answers only where each ends; spaces.ts does the rest. One line for each namespace: its name, a state, and
# `read`: the ten lists in hexadecimal; `failed`: why; `gone`: no such name; `broken`: the name leads to no
# namespace; `later`: did not fit. What is wrong with one namespace is in its own line, and in no other.
# No modules but Config: loading one takes longer than looking into a namespace.
use strict;
use warnings;
use Config;
use constant { CLONE_NEWNET => 0x40000000, O_NONBLOCK => 04000, ENOENT => 2 };
use constant { AF_NETLINK => 16, SOCK_RAW => 3, NETLINK_ROUTE => 0, NETLINK_NETFILTER => 12, SOL_SOCKET => 1, SO_RCVTIMEO => 20 };
use constant { NLMSG_ERROR => 2, NLMSG_DONE => 3, NLM_F_DUMP_INTR => 0x10, REQUEST_DUMP => 0x301, HEADER_BYTES => 16 };
use constant { RTM_GETLINK => 18, RTM_GETADDR => 22, RTM_GETNEIGH => 30, NFT_MSG_GETCHAIN => 10 << 8 | 4, NFT_MSG_GETRULE => 10 << 8 | 7, NFT_MSG_GETSETELEM => 10 << 8 | 13 };
use constant { IFLA_EXT_MASK => 29, SKIP_STATISTICS => 8, NUD_PERMANENT => 0x80, NUD_NOARP => 0x40, INET => 1, BRIDGE => 7, NFTA_TABLE => 1, NFTA_SET => 2 };
# of a list that changed while it was read; the kernel says so
use constant { TRIES => 12, REST_SECONDS => 0.01 };

my ($space_bytes, $all_bytes, $host_bytes, $table, $set, $guard, $ways, @names) = @ARGV;
my $host = @names && $names[0] eq '-' ? shift @names : undef;
# setns has no name in perl; the ABI is that of the perl that runs this
my %numbers = (x86_64 => 308, aarch64 => 268, riscv64 => 268, powerpc64le => 350, s390x => 339);
my ($machine) = $Config{archname} =~ /^([^-]+)/;
my $setns = $numbers{$machine} or die "the number of setns on $machine is not known\n";
$_ !~ /\Amz-[0-9a-f]{6}\z/ and die "not a namespace of ours: $_\n" for @names;

sub attribute {
  my ($type, $value) = @_;
  my $bytes = 4 + length $value;
  return pack('S S', $bytes, $type) . $value . "\0" x (-$bytes % 4);
}

# by protocol: what is asked
my @lists = (
  [NETLINK_ROUTE, RTM_GETLINK, pack('x16') . attribute(IFLA_EXT_MASK, pack 'L', SKIP_STATISTICS)],
  [NETLINK_ROUTE, RTM_GETADDR, pack('x8')],
  [NETLINK_ROUTE, RTM_GETNEIGH, pack('C x11', BRIDGE)],
  [NETLINK_ROUTE, RTM_GETNEIGH, pack('x12')],
  [NETLINK_NETFILTER, NFT_MSG_GETCHAIN, pack('C x3', BRIDGE)],
  [NETLINK_NETFILTER, NFT_MSG_GETRULE, pack('C x3', BRIDGE) . attribute(NFTA_TABLE, "$table\0")],
  [NETLINK_NETFILTER, NFT_MSG_GETSETELEM, pack('C x3', BRIDGE) . attribute(NFTA_TABLE, "$table\0") . attribute(NFTA_SET, "$set\0")]
);
my @guard_lists = (
  [NETLINK_NETFILTER, NFT_MSG_GETCHAIN, pack('C x3', INET)],
  [NETLINK_NETFILTER, NFT_MSG_GETRULE, pack('C x3', INET) . attribute(NFTA_TABLE, "$guard\0")],
  [NETLINK_NETFILTER, NFT_MSG_GETSETELEM, pack('C x3', INET) . attribute(NFTA_TABLE, "$guard\0") . attribute(NFTA_SET, "$ways\0")]
);

my $sequence = 0;

# @returns the messages of one list; undef when it changed meanwhile
sub ask {
  my ($socket, $type, $body, $room) = @_;
  $sequence++;
  syswrite($socket, pack('L S S L L', HEADER_BYTES + length $body, $type, REQUEST_DUMP, $sequence, 0) . $body) // die "asking: $!\n";
  my ($list, $changed) = ('', 0);
  for (;;) {
    recv($socket, my $part, 1 << 18, 0) // die "no answer: $!\n";
    while ($part ne '') {
      my ($bytes, $kind, $flags, $number) = length $part < HEADER_BYTES ? 0 : unpack 'L S S L', $part;
      die "an answer that cannot be read\n" if $bytes < HEADER_BYTES || $bytes > length $part;
      my $message = substr $part, 0, $bytes + -$bytes % 4, '';
      next if $number != $sequence;
      $changed ||= $flags & NLM_F_DUMP_INTR;
      my $error = $kind == NLMSG_ERROR || $kind == NLMSG_DONE && $bytes >= HEADER_BYTES + 4 ? unpack 'x16 l', $message : 0;
      # no such set: it has no elements
      return '' if $error == -(ENOENT) && $type == NFT_MSG_GETSETELEM;
      if ($error != 0) {
        $! = -$error;
        die "the kernel refuses list $type: $!\n";
      }
      return $changed ? undef : $list if $kind == NLMSG_DONE;
      # what was learnt from frames is none of ours, and guests decide how much of it there is
      next if $type == RTM_GETNEIGH && !((unpack 'x24 S', $message) & (NUD_PERMANENT | NUD_NOARP));
      $list .= $message;
      die "it holds too much\n" if length $list > $room;
    }
  }
}

sub look {
  my ($room, @lists) = @_;
  my (%sockets, @found);
  for (@lists) {
    my ($protocol, $type, $body) = @$_;
    my $list;
    for my $try (1 .. TRIES) {
      select undef, undef, undef, REST_SECONDS * ($try - 1) if $try > 1;
      if (!$sockets{$protocol}) {
        socket($sockets{$protocol}, AF_NETLINK, SOCK_RAW, $protocol) or die "socket: $!\n";
        setsockopt($sockets{$protocol}, SOL_SOCKET, SO_RCVTIMEO, pack 'l! l!', 2, 0) or die "SO_RCVTIMEO: $!\n";
      }
      $list = ask($sockets{$protocol}, $type, $body, $room);
      last if defined $list;
    }
    die "it changes all the time\n" unless defined $list;
    $room -= length $list;
    push @found, unpack 'H*', $list;
  }
  return join ' ', 'read', @found;
}

sub looked {
  my $found = eval { look(@_) } // "failed $@";
  return $found =~ s/\n.*//sr;
}

sub enter {
  my ($name) = @_;
  # a name may lead anywhere: to a pipe, which would not open until somebody writes
  sysopen(my $file, "/run/netns/$name", O_NONBLOCK) or return $! == ENOENT ? 'gone' : "failed $!";
  return 'broken' if syscall($setns, fileno $file, CLONE_NEWNET) != 0;
  return looked($space_bytes, @lists);
}

my $written = 0;
for my $name ($host // (), @names) {
  my $found = $written >= $all_bytes ? 'later' : $name eq '-' ? looked($host_bytes, @lists, @guard_lists) : enter($name);
  # the first is always said: it is what all others wait for
  $found = 'later' if $written > 0 && $written + length $found > $all_bytes;
  $written += length $found;
  syswrite(STDOUT, "$name $found\n") // exit 1;
}
