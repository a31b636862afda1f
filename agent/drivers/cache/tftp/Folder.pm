package Folder;
# Files that are there.
use strict;
use warnings;
use Fcntl qw(O_RDONLY O_NONBLOCK O_NOCTTY);
use Packets;

sub new { my ($class, $folder) = @_; return bless { folder => $folder }, $class }

# Calls back with a handle, or with undef, a code of TFTP and a reason.
sub get {
  my ($self, $path, $done) = @_;
  # no waiting for the other end of a pipe that somebody put there
  my $file;
  my $there = sysopen($file, "$self->{folder}/$path", O_RDONLY | O_NONBLOCK | O_NOCTTY) && -f $file && binmode $file;
  $there ? $done->($file) : $done->(undef, Packets::NOT_FOUND, 'no such file');
}

sub handles { return () }
sub ready { return }

1;
