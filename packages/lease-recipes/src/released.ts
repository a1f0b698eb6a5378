import { ErrLost } from 'lease-core'

/** What `assertHeld()` throws after a release. */
export function released({ lease, holder }: { readonly lease: string; readonly holder: string }): ErrLost {
  return new ErrLost(`lease "${lease}" of "${holder}" is not held any more: it was released`, {
    lease,
    holder,
    reason: 'released',
  })
}
