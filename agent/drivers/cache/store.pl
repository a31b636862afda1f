# usage: perl - list PREFIX AFTER MOST    objects by path and class, a line each, those behind AFTER, at most MOST
#        perl - purge PREFIX              removes objects whose paths begin so; empty: all
# Runs in the engine's folder as the engine's user, for whom everything in there may have been made by somebody else.
# Lines: CLASS PORT PATH BYTES PARTS SIZE SHA256 ASKED, separated by tabs; `-` for what is not known.
use strict;
use warnings;
use Fcntl qw(O_RDONLY O_NOFOLLOW O_NONBLOCK);

use constant HEAD_BYTES => 8192;       # nginx's own header, the key, and the headers of the answer
use constant OBJECTS_MAX => 200_000;   # what is held at once
use constant PATH => qr{/[\x21-\x7e]{0,511}};

my ($what, $prefix, $after, $most) = @ARGV;
my (%objects, %paths_of, $gone, $freed);
($gone, $freed) = (0, 0);

# "PORT:PATH" "DIGEST PORT:PATH";
if (my $map = opened('listed.map')) {
  while (<$map>) { push @{$paths_of{$3}}, [$1, $2] if m{^"(\d+):(${\PATH})" "([0-9a-f]{64}) } }
}
parts();
if ($what eq 'purge') { print "$gone\t$freed\n"; exit !close STDOUT }

asked();
my $count = 0;
for my $key (sort keys %objects) {
  next if $after ne '' && $key le $after;
  print("more\n"), last if $count++ >= $most;
  my $object = $objects{$key};
  print join("\t", @$object{qw(class port path bytes parts size sha256 asked)}), "\n";
}
exit !close STDOUT;

sub opened {
  my ($path) = @_;
  sysopen(my $file, $path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK) or return;
  return -f $file ? $file : undef;
}

sub object {
  my ($class, $port, $path) = @_;
  my $key = "$path $port $class";
  return if !exists $objects{$key} && keys %objects >= OBJECTS_MAX;
  return $objects{$key} //= { class => $class, port => $port, path => $path, bytes => 0, parts => 0, size => '-', sha256 => '-', asked => 0 };
}

# Each file in the store is a part of an object; its key, which nginx writes into it, says of which.
sub parts {
  for my $folder (glob 'store/[0-9a-f]/[0-9a-f][0-9a-f]') {
    next if -l $folder || -l substr $folder, 0, 7;
    opendir(my $dir, $folder) or next;
    for my $name (grep { /^[0-9a-f]{32}$/ } readdir $dir) {
      my $file = opened("$folder/$name") or next;
      sysread($file, my $head, HEAD_BYTES) or next;
      my $bytes = -s $file;
      my ($key) = $head =~ /\nKEY: ([^\n]{1,4096})\n/ or next;
      my @of = names($key);
      # what nothing names any more goes with all
      if ($what eq 'purge') {
        next unless $prefix eq '' || grep { index($_->[2], $prefix) == 0 } @of;
        unlink "$folder/$name" and $gone++, $freed += $bytes;
        next;
      }
      my ($size) = $head =~ m{\nContent-Range: bytes \d+-\d+/(\d{1,15})\r}i;
      ($size) = $head =~ m{\nContent-Length: (\d{1,15})\r}i unless defined $size;
      for my $one (@of) {
        next unless index($one->[2], $prefix) == 0;
        my $object = object(@$one[0 .. 2]) or next;
        $object->{bytes} += $bytes;
        $object->{parts}++;
        $object->{size} = $size if defined $size;
        $object->{sha256} = $one->[3] if defined $one->[3];
      }
    }
  }
}

sub names {
  my ($key) = @_;
  my @words = split / /, $key;
  if ($words[0] eq 'L') { return map { ['listed', @$_, $words[1]] } @{$paths_of{$words[1]} // []} }
  my ($port, $path) = $words[0] eq 'N' ? @words[1, 3] : $words[0] eq 'V' ? @words[2, 4] : return;
  return unless defined $path && $port =~ /^\d{1,5}$/ && $path =~ /^${\PATH}$/;
  my ($sha256) = $words[0] eq 'N' ? $path =~ /([0-9a-f]{64})/ : ();
  return [$words[0] eq 'N' ? 'named' : 'validated', $port, $path, $sha256];
}

# What nodes asked for, also where it is not here any more. The log does not name ports.
sub asked {
  my %first;
  for my $key (sort keys %objects) { $first{"$objects{$key}{class} $objects{$key}{path}"} //= $objects{$key} }
  for my $log ('access.log.1', 'access.log') {
    my $file = opened($log) or next;
    while (<$file>) {
      next unless /^\{"at":[\d.]+,"node":"(?!127\.)[^"]*","class":"(listed|named|validated)","method":"GET","target":"(${\PATH})","status":20[06],"asked":[1-9]/;
      my ($class, $path) = ($1, $2);
      next if $path =~ /["\\]/ || index($path, $prefix) != 0;
      my $object = $first{"$class $path"} //= object($class, '80', $path) or next;
      $object->{asked}++;
    }
  }
}
