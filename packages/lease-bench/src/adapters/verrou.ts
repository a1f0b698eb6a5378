import type { StoreFactory } from '@verrou/core/types'
import type { Peer, PeerLock } from './peer.ts'

/** Verrou over one of its stores. */
export async function verrouLocks(
  driver: StoreFactory['driver'],
  prefix: string,
): Promise<Pick<Peer, 'acquire' | 'wait'>> {
  const { Verrou } = await import('@verrou/core')
  const verrou = new Verrou({ default: 'store', stores: { store: { driver } } })
  const locked = async (
    lease: string,
    durationMs: number,
    how: 'acquire' | 'acquireImmediately',
  ): Promise<PeerLock> => {
    const lock = verrou.createLock(prefix + lease, durationMs)
    if (!(await lock[how]())) throw new Error(`${lease} is taken`)
    return {
      release: () => lock.release(),
      extend: (ms) => lock.extend(ms),
      held: () => !lock.isExpired(),
      check: () => lock.isLocked(),
    }
  }
  return {
    acquire: (lease, durationMs) => locked(lease, durationMs, 'acquireImmediately'),
    wait: (lease, durationMs) => locked(lease, durationMs, 'acquire'),
  }
}
