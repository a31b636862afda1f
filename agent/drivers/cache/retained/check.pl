# usage: perl - SLICEBYTES BYTESMAX
# Runs in a store that has outlived its cluster, as a user that nobody else is. Leaves whole objects only, whose bytes have
# the SHA-256 that they are kept under, or that is in their name; the newest first, BYTESMAX of them. An engine has written
# these files, and its nodes may have taken it over: of nginx's header, too, only what could have come from an honest one.
# Prints OBJECTS and BYTES, separated by a tab; then SHA-256 and length of the largest objects, a line each.
use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use Digest::SHA;
use Fcntl qw(O_RDONLY O_NOFOLLOW O_NONBLOCK);

use constant FIXED => 'J q5 L S S S';   # version, five times, CRC, milliseconds, where headers and body begin
use constant HEAD_BYTES => 32_768;      # proxy_buffer_size: the engine reads no longer head
use constant PARTS_MAX => 200_000;      # what is held at once
use constant READ_BYTES => 1_048_576;
use constant TOLD_MAX => 16;            # as MAX_HELD_OBJECTS

my ($slice, $most) = @ARGV;
die "usage: perl - SLICEBYTES BYTESMAX\n" unless ($slice // '') =~ /^[1-9]\d*$/ && ($most // '') =~ /^\d+$/;
setpriority(0, 0, 19); # nobody waits for it
my (%objects, $parts);
for my $path (glob '[0-9a-f]/[0-9a-f][0-9a-f]/*') {
  my $part = ++$parts <= PARTS_MAX ? part($path) : undef;
  if ($part) { push @{$objects{$part->{object}}}, $part } else { unlink $path }
}
my ($count, $sum, @kept) = (0, 0);
for my $object (sort { $b->[0]{changed} <=> $a->[0]{changed} } values %objects) {
  my $bytes = 0;
  $bytes += $_->{bytes} for @$object;
  my $digest = $sum + $bytes <= $most ? whole($object) : undef;
  if (!defined $digest) { unlink map { $_->{path} } @$object; next }
  $sum += $bytes;
  $count++;
  push @kept, [$digest, $object->[0]{total}];
}
rmdir $_ for glob '[0-9a-f]/[0-9a-f][0-9a-f]';
print "$count\t$sum\n";
@kept = sort { $b->[1] <=> $a->[1] || $a->[0] cmp $b->[0] } @kept;
print "$_->[0]\t$_->[1]\n" for splice @kept, 0, TOLD_MAX;
exit !close STDOUT;

sub opened {
  my ($path) = @_;
  sysopen(my $file, $path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK) or return;
  return -f $file ? $file : undef;
}

# What one file is a part of; nothing when it is not as nginx writes it.
sub part {
  my ($path) = @_;
  my ($name) = $path =~ m{^[0-9a-f]/[0-9a-f]{2}/([0-9a-f]{32})$} or return;
  chmod 0600, $path; # whatever bits it has, they are for nobody else
  my $file = opened($path) or return;
  my ($bytes, $changed) = (stat _)[7, 9];
  sysread($file, my $head, HEAD_BYTES) or return;
  return if length $head < length pack FIXED, (0) x 10;
  my ($headers, $body) = (unpack FIXED, $head)[8, 9];
  return if $headers > $body || $body > length $head;
  my ($key) = substr($head, 0, $headers) =~ /\nKEY: ([\x20-\x7e]{1,4096})\n\z/ or return;
  # the engine looks for a key under its MD5, in folders that its end names
  return if $name ne md5_hex($key) || $path ne substr($name, -1) . '/' . substr($name, -3, 2) . "/$name";
  my ($object, $digests, $from, $to);
  if ($key =~ /^(L ([0-9a-f]{64})) bytes=(\d{1,15})-(\d{1,15})$/) { ($object, $digests, $from, $to) = ($1, [$2], $3, $4) }
  elsif ($key =~ m{^(N \d{1,5} \S+ (/\S+)) bytes=(\d{1,15})-(\d{1,15})$}) { ($object, $digests, $from, $to) = ($1, [digests($2)], $3, $4) }
  return if !defined $object || !@$digests || $from % $slice || $to != $from + $slice - 1;
  my $length = $bytes - $body;
  my $total = total(substr($head, $headers, $body - $headers), $from, $to, $length);
  return unless defined $total;
  return { object => $object, path => $path, bytes => $bytes, changed => $changed, digests => $digests, from => $from, length => $length, body => $body, total => $total };
}

# A run of 64 hex digits that is not a part of a longer one.
sub digests { return $_[0] =~ /(?<![0-9A-Fa-f])([0-9a-f]{64})(?![0-9A-Fa-f])/g }

# Bytes of the whole object, as the headers of one part say it, which must agree with what is there.
sub total {
  my ($text, $from, $to, $length) = @_;
  my ($status, $lines) = $text =~ /\AHTTP\/1\.[01] (20[06])(?: [^\r\n]*)?\r?\n((?:[!-9;-~]+:[^\r\n\0]*\r?\n)*)\r?\n\z/ or return;
  my %header;
  for my $line (split /\r?\n/, $lines) {
    my ($name, $value) = $line =~ /^([^:]+):[ \t]*(.*?)[ \t]*$/;
    return if exists $header{lc $name} && $name =~ /^content-/i;
    $header{lc $name} = $value;
  }
  # the digest is that of the bytes as they are: nothing may make others of them at the node
  return if grep { exists $header{$_} } qw(content-encoding transfer-encoding set-cookie location refresh);
  return if grep { /^x-accel-/ } keys %header;
  return if exists $header{'content-length'} && $header{'content-length'} ne $length;
  if ($status eq '200') { return $from == 0 && exists $header{'content-length'} ? $length : undef }
  my ($first, $last, $total) = ($header{'content-range'} // '') =~ m{^bytes (\d{1,15})-(\d{1,15})/(\d{1,15})$} or return;
  return if $first != $from || $last != ($to < $total ? $to : $total - 1) || $length != $last - $first + 1;
  return $total;
}

# The digest, where all parts are there, one after the other, and together have it.
sub whole {
  my ($object) = @_;
  my @parts = sort { $a->{from} <=> $b->{from} } @$object;
  my ($at, $total) = (0, $parts[0]{total});
  for my $part (@parts) {
    return if $part->{total} != $total || $part->{from} != $at;
    $at += $part->{length};
  }
  return if $at != $total || !$total;
  my $sha = Digest::SHA->new(256);
  for my $part (@parts) {
    my $file = opened($part->{path}) or return;
    sysseek($file, $part->{body}, 0) or return;
    while (my $count = sysread($file, my $data, READ_BYTES)) { $sha->add($data) }
  }
  my $digest = $sha->hexdigest;
  return (grep { $_ eq $digest } @{$parts[0]{digests}}) ? $digest : undef;
}
