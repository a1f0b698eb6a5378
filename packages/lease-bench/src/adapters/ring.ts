/**
 * The least that a hand-off takes by hand: a release that notifies one client, the message, and its claim. Clients hand on in a
 * ring that all of them know beforehand, so nothing has to find the next one.
 */
import { ownSeat, type Adapter, type Contestant, type Ground, type Seat } from '../bench.ts'

/** What one client of the ring does with its driver. */
export interface RingClient {
  /** Calls back for each message of the client before it. Resolves once none is missed. */
  listen(lease: string, woken: () => void): Promise<void>
  /** What a client does before it waits. @default nothing: all of them know the ring */
  enter?(lease: string): Promise<void>
  /** Rejects when another holds the lease. */
  claim(lease: string): Promise<void>
  /** Notifies the next client in the same step. */
  release(lease: string): Promise<void>
  close(): Promise<void>
}

export interface Ring {
  /** @default 'ring' */
  readonly name?: string
  readonly about: string
  readonly isDetail?: true
  readonly connect: (ground: Ground, seat: Seat) => Promise<RingClient>
  readonly connectMany?: (ground: Ground, seats: readonly Seat[], listening: number) => Promise<readonly RingClient[]>
}

export function ring({ name = 'ring', about, isDetail, connect, connectMany }: Ring): Adapter {
  return {
    name,
    role: 'raw',
    about,
    ...(isDetail && { isDetail }),
    can: ['queue'],
    open: async (ground, seat = ownSeat()) => contestantOf(await connect(ground, seat), seat),
    ...(connectMany && {
      async openMany(ground, seats, listening) {
        const clients = await connectMany(ground, seats, listening)
        return clients.map((client, index) => contestantOf(client, seats[index] as Seat))
      },
    }),
  }
}

/** The client whose message wakes this one, and the one that it wakes. */
export function neighboursOf({ index, count }: Seat): { readonly before: number; readonly next: number } {
  return { before: (index + count - 1) % count, next: (index + 1) % count }
}

interface Standing {
  /** Messages that nobody has waited for yet. */
  unread: number
  wake: (() => void) | undefined
}

function contestantOf(client: RingClient, { index }: Seat): Contestant {
  const standings = new Map<string, Standing>()
  let denials = 0
  const wait = async (standing: Standing): Promise<void> => {
    denials++
    if (standing.unread === 0) await new Promise<void>((resolve) => (standing.wake = resolve))
    standing.wake = undefined
    standing.unread--
  }
  return {
    queue: {
      async hold(lease) {
        let standing = standings.get(lease)
        const isFirst = standing === undefined && index === 0
        if (standing === undefined) {
          const added: Standing = { unread: 0, wake: undefined }
          standings.set(lease, (standing = added))
          await client.listen(lease, () => {
            added.unread++
            added.wake?.()
          })
        }
        if (!isFirst) {
          await client.enter?.(lease)
          await wait(standing)
        }
        await client.claim(lease)
        return { held: true, release: () => client.release(lease) }
      },
      denials: () => denials,
    },
    close: () => client.close(),
  }
}
