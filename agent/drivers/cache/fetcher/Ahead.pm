package Ahead;
# What nodes are about to ask for: the next parts of a large object, which the engine would fetch one after the other, with
# a round trip of the WAN before each; and the next objects of a manifest, which names what nodes get in the order in
# which they do. Nodes' requests, as the engine logs them, say how far they are.
use strict;
use warnings;

use constant PARTS => 3;            # beyond the one that nodes have: more are under way than any link holds
use constant OBJECTS => 48;         # of a manifest, beyond the one that a node has
use constant OBJECTS_BYTES => 67_108_864;
use constant KNOWN_MAX => 8192;     # what was asked for lately
use constant QUEUE_MAX => 4096;     # of what nodes ask for faster than it can be fetched, the rest is left to them
use constant PLACES_MAX => 100_000; # of all manifests: as many as the engine's list has
use constant READ_BYTES => 1_048_576;
use constant LOG_BYTES_MAX => 4_194_304;

sub new {
  my ($class, %given) = @_; # log, slice, ports => {port => listen}, listed => called for what a node was the first to get
  return bless { %given, offset => -s $given{log} // 0, rest => '', queue => [], known => {}, order => [], place => {}, parts => 0, bytes => 0 }, $class;
}

# A manifest, as LISTS of its objects; what the same manifest said before is forgotten.
sub manifest {
  my ($self, $port, $name, $lists) = @_;
  $self->forget($name);
  my ($place, @objects) = $self->{place};
  my $room = PLACES_MAX - keys %$place;
  for my $list (@$lists) {
    open(my $file, '<', $list) or next;
    while (@objects < $room && defined($_ = <$file>)) { chomp; push @objects, [split /\t/] }
  }
  $place->{"$port $objects[$_][0]"} = [$name, $_, \@objects] for 0 .. $#objects;
}

sub forget {
  my ($self, $name) = @_;
  my $place = $self->{place};
  delete @$place{grep { $place->{$_}[0] eq $name } keys %$place};
}

# Reads what nodes asked for since the last call.
sub look {
  my ($self) = @_;
  my $size = -s $self->{log} // 0;
  $self->{offset} = 0, $self->{rest} = '' if $size < $self->{offset};
  return if $size == $self->{offset};
  open(my $log, '<', $self->{log}) or return;
  sysseek($log, $self->{offset}, 0);
  my $count = sysread($log, my $text, READ_BYTES) or return;
  $self->{offset} += $count;
  my @lines = split /\n/, $self->{rest} . $text, -1;
  $self->{rest} = pop @lines;
  $self->{rest} = '' if length $self->{rest} > READ_BYTES;
  $self->line($_) for @lines;
  # the engine appends, so it goes on at the new end
  truncate($self->{log}, 0) and $self->{offset} = 0 if $self->{offset} == $size && $size > LOG_BYTES_MAX;
}

sub line {
  my ($self, $line) = @_;
  my ($port, $host, $path, $range, $way, $store, $digest) = split /\t/, $line;
  # what is not kept is not fetched: it would come once more, and from another address than the node's
  return unless defined $digest && $way ne 'dynamic' && $self->{ports}{$port} && $host =~ /^[A-Za-z0-9.:_-]{1,255}$/ && $path =~ m{^/[\x21-\x7e]{0,511}$} && $path !~ /["\\]/;
  if ($way eq 'listed') {
    $self->{listed}->($port, $path, $digest) if $store eq 'MISS' && $digest =~ /^[0-9a-f]{64}$/;
    $self->objects($port, $host, $path);
  }
  my ($from, $to, $total) = $range =~ m{^bytes (\d+)-(\d+)/(\d+)$} or return;
  my $slice = $self->{slice};
  return if $from % $slice || $to + 1 - $from != $slice; # the last one, or another server's idea of parts
  # the engine goes for the next one itself
  for my $ahead (2 .. 1 + PARTS) {
    my $first = $from + $ahead * $slice;
    last if $first >= $total;
    $self->want($port, $host, $path, $first, $first + $slice < $total ? $first + $slice - 1 : $total - 1);
  }
}

sub objects {
  my ($self, $port, $host, $path) = @_;
  my $place = $self->{place}{"$port $path"} or return;
  my (undef, $at, $objects) = @$place;
  my $bytes = 0;
  for my $next ($at + 1 .. $at + OBJECTS) {
    my $object = $objects->[$next] or last;
    last if ($bytes += $object->[1]) > OBJECTS_BYTES && $next > $at + 1;
    $self->want($port, $host, $object->[0], 0, $self->{slice} - 1, $object->[2]) if $object->[1] > 0;
  }
}

sub want {
  my ($self, $port, $host, $path, $first, $last, $sha256) = @_;
  my $key = "$port $host $path $first";
  return if $self->{known}{$key} || @{$self->{queue}} >= QUEUE_MAX;
  $self->{known}{$key} = 1;
  push @{$self->{order}}, $key;
  delete $self->{known}{shift @{$self->{order}}} if @{$self->{order}} > KNOWN_MAX;
  push @{$self->{queue}}, { listen => $self->{ports}{$port}, host => $host, path => $path, range => "$first-$last", port => $port, sha256 => $sha256 };
}

# The next request to make, or none.
sub next {
  my ($self) = @_;
  my $request = shift @{$self->{queue}} or return;
  $request->{done} = sub {
    my ($ended) = @_;
    return if $ended->{error} || $ended->{store} ne 'MISS';
    $self->{parts}++;
    $self->{bytes} += $ended->{bytes};
    # nodes will find it there, so nobody else tells that it came
    $self->{listed}->(@$ended{qw(port path sha256)}) if defined $ended->{sha256} && $ended->{way} eq 'listed';
  };
  return $request;
}

1;
