#!/usr/bin/perl
# usage: vlan-stand-in.pl NIC NIC_INDEX PORT PORT_INDEX ID PATH
# Does in the namespace of its caller what a sub-interface of NIC with the 802.1Q id ID does, on kernels without 8021q:
# frames with that tag go to PORT without it, what comes in by PORT goes out by NIC with it. Programs for the
# kernel's traffic control, in its own instructions, put together here and kept in the BPF file system as PATH-in and PATH-out.
use strict;
use warnings;
use Config;
use constant { PROG_LOAD => 5, OBJ_PIN => 6, SCHED_CLS => 3, VLAN_PUSH => 18, VLAN_POP => 19, REDIRECT => 23, PASS => 0, DROP => 2 };
# offsets in struct __sk_buff, linux/bpf.h
use constant { PRESENT => 20, TCI => 24 };
my ($nic, $nic_index, $port, $port_index, $id, $path) = @ARGV;
die "usage: vlan-stand-in.pl NIC NIC_INDEX PORT PORT_INDEX ID PATH\n" unless defined $path;
my %numbers = (x86_64 => 321, aarch64 => 280, riscv64 => 280);
my ($machine) = $Config{archname} =~ /^([^-]+)/;
my $bpf = $numbers{$machine} or die "the number of bpf on $machine is not known\n";

# code, destination, source, offset, immediate
sub op { my ($code, $to, $from, $off, $value) = @_; return pack 'C C s l', $code, $to | $from << 4, $off, $value }
sub move { return op(0xb7, $_[0], 0, 0, $_[1]) }
sub copy { return op(0xbf, $_[0], $_[1], 0, 0) }
sub call { return op(0x85, 0, 0, 0, $_[0]) }
sub field { return op(0x61, $_[0], $_[1], $_[2], 0) }
my $leave = op(0x95, 0, 0, 0, 0);
my $redirect = sub { move(1, $_[0]) . move(2, 0) . call(REDIRECT) . $leave };
# what is not of this id passes on, as on a NIC with others
my $in = copy(6, 1) . field(2, 6, PRESENT) . op(0x15, 2, 0, 10, 0) . field(2, 6, TCI) . op(0x57, 2, 0, 0, 0xfff) . op(0x55, 2, 0, 7, $id)
  . copy(1, 6) . call(VLAN_POP) . op(0x55, 0, 0, 6, 0) . $redirect->($port_index) . move(0, PASS) . $leave . move(0, DROP) . $leave;
my $out = copy(6, 1) . move(2, unpack 'S', pack 'n', 0x8100) . move(3, $id) . call(VLAN_PUSH) . op(0x55, 0, 0, 4, 0) . $redirect->($nic_index) . move(0, DROP) . $leave;

sub address { return unpack 'J', pack 'P', $_[0] }
sub bpf { my ($command, $attributes) = @_; my $got = syscall($bpf, $command, $attributes, length $attributes); return $got }
sub load {
  my ($program, $name) = @_;
  my ($licence, $log) = ("GPL\0", "\0" x 65536);
  my $fd = bpf(PROG_LOAD, pack('L L Q Q L L Q L L', SCHED_CLS, length($program) / 8, address($program), address($licence), 1, length $log, address($log), 0, 0));
  die "program: $!: " . unpack('Z*', $log) . "\n" if $fd < 0;
  my $where = "$name\0";
  die "keeping $name: $!\n" if bpf(OBJ_PIN, pack('Q L L', address($where), $fd, 0)) < 0;
}
load($in, "$path-in");
load($out, "$path-out");
