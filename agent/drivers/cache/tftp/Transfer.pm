package Transfer;
# One file on its way to one client: RFC 1350 as the sender. What was not acknowledged is sent again; an acknowledgement that
# came before is not answered, or each packet would go twice from then on (RFC 1123, 4.2.3.1).
use strict;
use warnings;
use Fcntl qw(SEEK_SET);
use Packets;

use constant BLOCK_BYTES => 512;
use constant BLOCK_BYTES_MIN => 8;
use constant BLOCK_BYTES_MAX => 1468;    # with its headers it is 1500 bytes: no client has to put fragments together
use constant WINDOW_MAX => 16;
use constant WAIT_SECONDS => 1;
use constant WAIT_SECONDS_MAX => 8;      # doubled up to this
use constant ASKED_SECONDS_MAX => 30;    # a client that asks for more is not promised it
use constant TRIES => 6;
use constant NETASCII_BYTES_MAX => 1_048_576; # it is put together in memory

# Fields: file (handle, open for reading), name, mode, options, send (takes a packet). Dies with a reason that the client may read.
sub new {
  my ($class, %self) = @_;
  my $self = bless { %self, base => 0, high => 0, tries => 0, bytes => 0 }, $class;
  $self->{size} = -s $self->{file} // 0;
  $self->as_text if $self->{mode} eq 'netascii';
  my ($options, @granted) = $self->{options};
  my $option = sub {
    my ($name, $least, $most, $default) = @_;
    my $asked = $options->{$name};
    return $default if !defined $asked || $asked < $least;
    my $value = $asked > $most ? $most : $asked;
    push @granted, $name, $value;
    return $value;
  };
  $self->{block} = $option->('blksize', BLOCK_BYTES_MIN, BLOCK_BYTES_MAX, BLOCK_BYTES);
  $self->{window} = $option->('windowsize', 1, WINDOW_MAX, 1);
  # a time is taken as it is or not at all (RFC 2349)
  $self->{wait} = $option->('timeout', 1, ASKED_SECONDS_MAX, undef) if ($options->{timeout} // 0) <= ASKED_SECONDS_MAX;
  push @granted, 'tsize', $self->{size} if exists $options->{tsize};
  $self->{blocks} = int($self->{size} / $self->{block}) + 1;
  $self->{oack} = Packets::oack(@granted) if @granted;
  return $self;
}

sub as_text {
  my ($self) = @_;
  die "too large for netascii\n" if $self->{size} > NETASCII_BYTES_MAX;
  my $text = $self->read_at(0, $self->{size});
  $text =~ s/\r/\r\0/g;
  $text =~ s/\n/\r\n/g;
  $self->{text} = $text;
  $self->{size} = length $text;
}

sub read_at {
  my ($self, $at, $length) = @_;
  my $bytes = '';
  sysseek $self->{file}, $at, SEEK_SET or die "cannot be read\n";
  while (length $bytes < $length) {
    my $got = sysread $self->{file}, $bytes, $length - length $bytes, length $bytes;
    die "became shorter\n" unless $got;
  }
  return $bytes;
}

# Sends what is next, or again what nobody acknowledged. Dies as new does.
sub send {
  my ($self, $now) = @_;
  $self->{due} = $now + ($self->{wait} // do { my $wait = WAIT_SECONDS * 2 ** $self->{tries}; $wait > WAIT_SECONDS_MAX ? WAIT_SECONDS_MAX : $wait });
  return $self->{send}->($self->{oack}) if defined $self->{oack};
  my $last = $self->{base} + $self->{window};
  $last = $self->{blocks} if $last > $self->{blocks};
  for my $number ($self->{base} + 1 .. $last) {
    my $at = ($number - 1) * $self->{block};
    my $length = $self->{size} - $at;
    $length = $self->{block} if $length > $self->{block};
    my $bytes = defined $self->{text} ? substr($self->{text}, $at, $length) : $self->read_at($at, $length);
    $self->{send}->(Packets::data($number, $bytes));
  }
  $self->{high} = $last if $last > $self->{high};
}

# True once all has arrived. Numbers begin anew at 0 after 65535, as other servers have it.
sub acknowledged {
  my ($self, $number, $now) = @_;
  if (defined $self->{oack}) {
    return 0 if $number != 0;
    delete $self->{oack};
  } else {
    my $further = ($number - $self->{base}) & 0xffff;
    return 0 if $further == 0 || $self->{base} + $further > $self->{high};
    $self->{base} += $further;
    return 1 if $self->{base} == $self->{blocks};
  }
  $self->{tries} = 0;
  $self->send($now);
  return 0;
}

# False when the client is taken for gone.
sub again {
  my ($self, $now) = @_;
  return 0 if ++$self->{tries} > TRIES;
  $self->send($now);
  return 1;
}

# Whether nothing of it arrived yet: a request that comes again then is the same one.
sub fresh { return $_[0]{base} == 0 }

1;
