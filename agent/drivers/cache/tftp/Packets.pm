package Packets;
# Packets of TFTP: RFC 1350, with the options of RFC 2347 to 2349 and 7440; and which names of files are taken.
use strict;
use warnings;

use constant { RRQ => 1, WRQ => 2, DATA => 3, ACK => 4, ERROR => 5, OACK => 6 };
use constant { OTHER => 0, NOT_FOUND => 1, DENIED => 2, FULL => 3, ILLEGAL => 4, UNKNOWN_TID => 5 };
use constant NAME_BYTES_MAX => 255;

# Name, mode and options of a request; nothing when it is none.
sub request {
  my ($rest) = @_;
  return unless $rest =~ s/\0\z//;
  my ($name, $mode, @fields) = split /\0/, $rest, -1;
  return unless defined $mode && length $name && $mode =~ /^(?:octet|netascii)\z/i;
  my %options;
  while (@fields >= 2) {
    my ($option, $value) = splice @fields, 0, 2;
    last if $option eq ''; # ROMs that fill up with zeros
    $options{lc $option} = $value if $value =~ /^\d{1,9}\z/;
  }
  return ($name, lc $mode, \%options);
}

sub data { return pack 'n n a*', DATA, $_[0] & 0xffff, $_[1] }
sub ack { return pack 'n n', ACK, $_[0] & 0xffff }
sub error { return pack 'n n Z*', ERROR, @_ }
sub oack { return pack('n', OACK) . join '', map { "$_\0" } @_ }
sub read_request { return pack('n', RRQ) . join '', map { "$_\0" } @_ }

# The path of a file below the folder that is served, without a slash in front; nothing for all that may lead elsewhere.
sub path {
  my ($name) = @_;
  return if length $name > NAME_BYTES_MAX || $name =~ /[^\x20-\x7e]/ || $name =~ /\\/;
  my @parts = grep { $_ ne '' } split m{/}, $name;
  return if !@parts || $name =~ m{/\z} || grep { $_ eq '.' || $_ eq '..' } @parts;
  return join '/', @parts;
}

1;
