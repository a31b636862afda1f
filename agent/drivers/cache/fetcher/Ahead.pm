package Ahead;
# What nodes are about to ask for: the next parts of a large object, which the engine would fetch one after the other, with
# a round trip of the WAN before each; and the next objects of a manifest, which names what nodes get in the order in
# which they do. Nodes' requests say how far they are: the engine logs a line when an object of an index is asked for, and
# one when a part has come.
use strict;
use warnings;
use Digest::SHA;
use Clock;

use constant PARTS => 3;            # beyond the one that nodes have: more are under way than any link holds
use constant OBJECTS => 48;         # of a manifest, beyond the one that a node has
use constant OBJECTS_BYTES => 67_108_864;
use constant KNOWN_MAX => 8192;     # what was asked for lately
use constant QUEUE_MAX => 4096;     # of what nodes ask for faster than it can be fetched, the rest is left to them
use constant PLACES_MAX => 100_000; # of all manifests: as many as the engine's list has
use constant FOLLOWED_SECONDS => 60; # of a crowd that asks for an object, one says what comes next
use constant READ_BYTES => 1_048_576;
use constant LOG_BYTES_MAX => 4_194_304;

sub new {
  my ($class, %given) = @_; # log, slice, ports => {port => listen}, listed => called for what came under a digest and was not compared with it, denied => called for what is not what its digest says
  return bless { %given, offset => -s $given{log} // 0, rest => '', parts_queue => [], objects_queue => [], known => {}, order => [], compared => {}, place => {}, parts => 0, bytes => 0 }, $class;
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
  my ($port, $host, $path, $range, $way, $store, $digest) = split /\t/, $line, -1;
  # what is not kept is not fetched: it would come once more, and from another address than the node's
  return unless defined $digest && $way ne 'dynamic' && $self->{ports}{$port} && $host =~ /^[A-Za-z0-9.:_-]{1,255}$/ && $path =~ m{^/[\x21-\x7e]{0,511}$} && $path !~ /["\\]/;
  if ($way eq 'listed') {
    return $self->asked($port, $host, $path) if $store eq '';
    $self->unseen($port, $path, $digest) if $store eq 'MISS';
  }
  my ($from, $to, $total) = $range =~ m{^bytes (\d+)-(\d+)/(\d+)$} or return;
  my $slice = $self->{slice};
  return if $from % $slice || $to + 1 - $from != $slice; # the last one, or another server's idea of parts
  # the engine goes for the next one itself
  $self->parts($port, $host, $path, $digest, $total, $from + 2 * $slice);
}

# Parts of one object, as many as are kept under way, from the one that begins at FROM on.
sub parts {
  my ($self, $port, $host, $path, $digest, $total, $from) = @_;
  my $slice = $self->{slice};
  for my $ahead (0 .. PARTS - 1) {
    my $first = $from + $ahead * $slice;
    last if $first >= $total;
    $self->want($self->{parts_queue}, { port => $port, host => $host, path => $path, digest => $digest }, $first, $first + $slice < $total ? $first + $slice - 1 : $total - 1);
  }
}

# A node asks for an object of a manifest: the engine goes for its first part itself.
sub asked {
  my ($self, $port, $host, $path) = @_;
  my $place = $self->{place}{"$port $path"} or return;
  my (undef, $at, $objects) = @$place;
  my $now = time;
  return if defined $place->[3] && $now - $place->[3] < FOLLOWED_SECONDS;
  $place->[3] = $now;
  $self->parts($port, $host, $path, $objects->[$at][2], $objects->[$at][1], $self->{slice});
  my $bytes = 0;
  for my $next ($at + 1 .. $at + OBJECTS) {
    my $object = $objects->[$next] or last;
    my ($name, $size, $digest) = @$object;
    last if ($bytes += $size) > OBJECTS_BYTES && $next > $at + 1;
    my $whole = $size <= $self->{slice};
    $self->want($self->{objects_queue}, { port => $port, host => $host, path => $name, digest => $digest, size => $whole ? $size : undef }, 0, $self->{slice} - 1) if $size > 0;
  }
}

# Once for an object, however many parts it has.
sub unseen {
  my ($self, $port, $path, $digest) = @_;
  return if $digest !~ /^[0-9a-f]{64}$/ || $self->{compared}{$digest};
  $self->{compared} = {} if keys %{$self->{compared}} >= KNOWN_MAX;
  $self->{compared}{$digest} = 1;
  $self->{listed}->($port, $path, $digest);
}

sub want {
  my ($self, $queue, $request, $first, $last) = @_;
  my $key = "$request->{port} $request->{host} $request->{path} $first";
  return if $self->{known}{$key} || @$queue >= QUEUE_MAX;
  $self->{known}{$key} = 1;
  push @{$self->{order}}, $key;
  delete $self->{known}{shift @{$self->{order}}} if @{$self->{order}} > KNOWN_MAX;
  push @$queue, { %$request, listen => $self->{ports}{$request->{port}}, range => "$first-$last" };
}

# The next request to make, or none: what nodes are in the middle of goes first.
sub next {
  my ($self) = @_;
  my $request = shift @{$self->{parts_queue}} // shift @{$self->{objects_queue}} or return;
  my ($port, $path, $digest, $size) = @$request{qw(port path digest size)};
  my $sha = defined $size ? Digest::SHA->new(256) : undef;
  $request->{unless_kept} = 1;
  $request->{sink} = sub { $sha->add($_[0]); return undef } if $sha;
  $request->{done} = sub {
    my ($ended) = @_;
    return if $ended->{error} || $ended->{store} ne 'MISS';
    $self->{parts}++;
    $self->{bytes} += $ended->{bytes};
    return if $ended->{way} ne 'listed';
    # of an object in several parts nobody has seen all
    return $self->unseen($port, $path, $digest // '') unless $sha;
    $self->{denied}->($port, $path, $digest, $ended->{total} // $size) if $sha->hexdigest ne $digest;
  };
  return $request;
}

1;
