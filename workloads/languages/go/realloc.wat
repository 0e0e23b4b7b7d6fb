;; Where the host puts what it answers: memory that Go lends it for a request. No Go code may run while the host asks for it,
;; since Go's scheduler would call out, which a component may not do at that time (CanonicalABI.md, may_leave).
(module
  (import "go" "memory" (memory 1))
  (global $next (mut i32) (i32.const 0))
  (global $end (mut i32) (i32.const 0))
  (func (export "lend") (param $from i32) (param $size i32)
    (global.set $next (local.get $from))
    (global.set $end (i32.add (local.get $from) (local.get $size))))
  (func (export "cabi_import_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
    (local $place i32)
    (local.set $place
      (i32.and
        (i32.sub (i32.add (global.get $next) (local.get $align)) (i32.const 1))
        (i32.sub (i32.const 0) (local.get $align))))
    (if (i32.gt_u (i32.add (local.get $place) (local.get $size)) (global.get $end)) (then unreachable))
    (memory.copy (local.get $place) (local.get $old) (local.get $old-size))
    (global.set $next (i32.add (local.get $place) (local.get $size)))
    (local.get $place)))
