import type { FaultySubstrate } from '../testing/faulty-substrate.ts'
import type { Faults } from './harness.ts'

/** All calls but the one that looks at the store's set-up, which nobody waits for. */
const KINDS = ['claim', 'extend', 'release', 'expire', 'pin', 'unpin', 'read', 'pinned'] as const

/** The faults of a `FaultySubstrate` from `lease-core/testing`, as the kit asks for them. */
export function faultsOf(faulty: FaultySubstrate): Faults {
  return {
    loseRequests: (times) => void faulty.loseRequest({ kind: KINDS, times }),
    loseReplies: (times) => void faulty.loseReply({ kind: KINDS, times }),
    delayRequests: (delayMs) => void faulty.delay(delayMs, { at: 'request' }),
    delayReplies: (delayMs) => void faulty.delay(delayMs, { at: 'reply' }),
    hang: () => void faulty.hang(),
    heal: () => faulty.heal(),
  }
}
