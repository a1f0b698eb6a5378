/** The library itself, over any client. */
import { Manager, type Client, type Clock } from 'lease-core'
import type { Contestant } from '../bench.ts'
import { countingClock, type CountingClock } from '../counting-clock.ts'

/** Long enough that nothing lapses and nothing is renewed while it is measured. */
const duration = { hours: 2 }
const holder = 'bench'

/** A manager over the client that `connect` makes with the given clock. */
export function libraryContestant(connect: (clock: Clock) => Client, atEnd: () => Promise<void>): Contestant {
  const clock: CountingClock = countingClock()
  const client = connect(clock)
  const manager = new Manager({ client, clock })
  return {
    one: {
      claim: (lease) => manager.claim(lease, holder, duration),
      release: (lease) => manager.release(lease, holder),
    },
    keep: {
      hold: (lease) => manager.hold(lease, holder, { duration }),
      timers: () => clock.timers(),
    },
    async close() {
      await manager.stop()
      await client.close()
      await atEnd()
    },
  }
}
