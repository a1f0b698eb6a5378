/** The library itself, over any client. */
import { Manager, traces, type Client, type Clock, type Hold, type Token } from 'lease-core'
import type { Ability, Adapter, Contestant, GuardedWrites } from '../bench.ts'
import { countingClock, type CountingClock } from '../counting-clock.ts'
import { LONG_MS } from './by-hand.ts'

export interface LibraryOptions {
  /** Makes the client with the given clock. */
  readonly connect: (clock: Clock) => Client
  /** Lets go of what the client was made with. */
  readonly atEnd: () => Promise<void>
  /** Writes under the token's lease. */
  readonly guard?: (kind: string, token: Token, lane: number) => Promise<GuardedWrites>
}

/** What it can do on every substrate; `guard` besides where there is a trapdoor. */
export const libraryCan: readonly Ability[] = ['one', 'keep', 'queue', 'knows', 'asks', 'manager']

/**
 * The same library in a process where somebody listens to every event and to every call: a reference, beside which the library shows what
 * it saves where nobody does.
 */
export function heard(library: Adapter): Adapter {
  return {
    name: `${library.name}-heard`,
    role: 'raw',
    about: 'the same, and every event and call is listened to',
    can: ['one'],
    isDetail: true,
    async open(ground, seat) {
      const contestant = await library.open(ground, seat)
      const { one, manager } = contestant
      const ends = [manager?.events.subscribe(ignore), ...Object.values(traces).map(listenTo)]
      return {
        ...(one === undefined ? {} : { one }),
        async close() {
          for (const end of ends) end?.()
          await contestant.close()
        },
      }
    },
  }
}

function listenTo(channel: (typeof traces)[keyof typeof traces]): () => void {
  const stages = ['start', 'end', 'asyncStart', 'asyncEnd', 'error'] as const
  for (const stage of stages) channel[stage].subscribe(ignore)
  return () => stages.forEach((stage) => channel[stage].unsubscribe(ignore))
}

function ignore(): void {}

/** A manager over a client of its own, asking under a name of its own. */
export function libraryContestant({ connect, atEnd, guard }: LibraryOptions): Contestant {
  const clock: CountingClock = countingClock()
  const holder = `bench-${process.pid}-${holders++}`
  const client = connect(clock)
  const manager = new Manager({ client, clock })
  let denials = 0
  let renewals: (() => number) | undefined
  let unsubscribe: (() => void) | undefined
  const hold = (lease: string): Promise<Hold> => manager.hold(lease, holder, { duration: LONG_MS })
  return {
    one: {
      claim: async (lease) => void (await manager.claim(lease, holder, LONG_MS)),
      release: (lease) => manager.release(lease, holder),
    },
    keep: {
      hold(lease, durationMs = LONG_MS): Promise<Hold> {
        if (durationMs !== LONG_MS) renewals ??= countExtensions(client)
        return manager.hold(lease, holder, { duration: durationMs })
      },
      renewals: () => renewals?.() ?? 0,
      timers: () => clock.timers(),
    },
    queue: {
      hold(lease): Promise<Hold> {
        unsubscribe ??= manager.events.subscribe(({ type }) => {
          if (type === 'denied') denials++
        })
        return manager.hold(lease, holder, { duration: LONG_MS, wait: true })
      },
      denials: () => denials,
    },
    async knows(lease) {
      const held = await hold(lease)
      return () => held.held
    },
    async asks(lease) {
      const { token } = await hold(lease)
      return () => token.check()
    },
    ...(guard === undefined
      ? {}
      : { guard: async (kind, lane) => guard(kind, (await hold(`guarded-${lane}`)).token, lane) }),
    manager,
    async close() {
      unsubscribe?.()
      await manager.stop()
      await client.close()
      await atEnd()
    },
  }
}

/** Two managers under the same name would extend each other's leases. */
let holders = 0

/** Counts what the substrate granted: every renewal and every other extension that the client tells of. */
function countExtensions(client: Client): () => number {
  let granted = 0
  const count = (): void => void granted++
  const extend = client.extendLease.bind(client)
  client.extendLease = (lease, request, options) => {
    const extension = extend(lease, request, options)
    extension.then(count, () => {})
    return extension
  }
  const renew = client.renewLease?.bind(client)
  if (renew !== undefined) {
    client.renewLease = (renewal) => {
      const tell = renewal.granted.bind(renewal)
      renewal.granted = () => {
        granted++
        tell()
      }
      renew(renewal)
    }
  }
  return () => granted
}
