# Containers of this node that name no profile of their own.
profile amphipod-default flags=(attach_disconnected,mediate_deleted) {
  capability,
  file,
  network,
  umount,

  # From whom a signal may come is judged where it is sent.
  signal (receive),
  signal (send) peer=amphipod-default,
  ptrace (read, readby, trace, tracedby) peer=amphipod-default,

  deny mount,

  # Kernel settings and interfaces of the host; those of a container's own namespaces stay.
  deny /proc/{kcore,kmem,mem,sysrq-trigger} rwklx,
  deny /proc/{acpi,asound,bus,driver,fs,irq,scsi,tty}/** wklx,
  deny /proc/sys/{abi,debug,dev,user,vm}/** wklx,
  deny /proc/sys/fs/[^m]** wklx,
  deny /proc/sys/kernel/{[^ms],m[^s],s[^eh]}** wklx,
  deny /sys/{block,bus,class,dev,devices,hypervisor,kernel,module,power}/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
}
