import type { Fault } from '../testing/fault.ts'
import type { FaultySubstrate } from '../testing/faulty-substrate.ts'
import type { Faults, Packets } from './harness.ts'

const WRITES = ['claim', 'extend', 'release', 'expire', 'pin', 'unpin', 'define'] as const
/** All calls but those that look at the store's set-up and its clock, which no clause waits for. */
const KINDS = [...WRITES, 'read', 'pinned'] as const

/** The faults of a `FaultySubstrate` from `lease-core/testing`, as the kit asks for them. */
export function faultsOf(faulty: FaultySubstrate): Faults {
  return {
    loseRequests: (times) => void faulty.loseRequest({ kind: KINDS, times }),
    loseReplies: (times) => void faulty.loseReply({ kind: KINDS, times }),
    delayRequests: (delayMs) => void faulty.delay(delayMs, { at: 'request' }),
    delayReplies: (delayMs) => void faulty.delay(delayMs, { at: 'reply' }),
    hang: () => void faulty.hang(),
    holdBack: (times) => packetsOf(faulty.holdBack({ kind: WRITES, times })),
    repeat: (times) => packetsOf(faulty.repeat({ kind: WRITES, times })),
    heal: () => faulty.heal(),
  }
}

function packetsOf(fault: Fault): Packets {
  return {
    get count() {
      return fault.hanging
    },
    letGo: () => fault.letGo(),
  }
}
