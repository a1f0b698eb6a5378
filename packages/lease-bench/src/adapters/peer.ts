/** Somebody else's library: what the workloads need of it, in the words of the bench. */
import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import type { Contestant, Kept } from '../bench.ts'
import { LONG_MS } from './by-hand.ts'

/** What a library does for one lease that it was granted. */
export interface PeerLock {
  readonly release: () => Promise<unknown>
  readonly extend?: (durationMs: number) => Promise<unknown>
  /** Whether it is still held, as the library knows without asking. */
  readonly held?: () => boolean
  /** The same, as it asks the server. */
  readonly check?: () => Promise<unknown>
}

export interface Peer {
  /** A single try; rejects when another holds the lease. */
  readonly acquire: (lease: string, durationMs: number) => Promise<PeerLock>
  /** Waits as long as it takes, in the library's own way and with its default intervals. */
  readonly wait?: (lease: string, durationMs: number) => Promise<PeerLock>
  /** Renewed by the library itself, every third of the duration if it has an option for that. Without it the bench extends. */
  readonly keep?: (lease: string, durationMs: number) => Promise<Kept>
  /** What `keep` has renewed so far. */
  readonly renewals?: () => number
  readonly close: () => Promise<void>
}

/** Who has not been granted a lease for so long waits for it: no library tells. */
const TAKEN_TO_WAIT_MS = 30

/** By then everybody who waited has been served, or never will be. */
const DRAINED_MS = 10_000

/** All that the library can do in its own way, and renewals by hand where it has no own. */
export function peerContestant(peer: Peer): Contestant {
  const claimed = new Map<string, PeerLock>()
  const queue = queueOf(peer)
  return {
    one: {
      async claim(lease) {
        claimed.set(lease, await peer.acquire(lease, LONG_MS))
      },
      async release(lease) {
        await claimed.get(lease)?.release()
      },
    },
    keep: keepOf(peer),
    ...(queue === undefined ? {} : { queue: queue.waiting }),
    async knows(lease) {
      const { held } = await peer.acquire(lease, LONG_MS)
      if (held === undefined) throw new Error('it does not know by itself')
      return held
    },
    async asks(lease) {
      const { check } = await peer.acquire(lease, LONG_MS)
      if (check === undefined) throw new Error('it cannot ask')
      return check
    },
    async close() {
      await queue?.drained()
      await peer.close()
    },
  }
}

function keepOf(peer: Peer): NonNullable<Contestant['keep']> {
  let extended = 0
  return {
    hold(lease, durationMs = LONG_MS) {
      return peer.keep?.(lease, durationMs) ?? keptByHand(peer, lease, durationMs, () => extended++)
    },
    renewals: () => extended + (peer.renewals?.() ?? 0),
    timers: () => Number.NaN,
  }
}

/** As anyone who uses the library would do it: a timer for each lease. */
async function keptByHand(peer: Peer, lease: string, durationMs: number, done: () => void): Promise<Kept> {
  const lock = await peer.acquire(lease, durationMs)
  let held = true
  let extending: Promise<unknown> | undefined
  const extend = async (): Promise<void> => {
    try {
      await lock.extend?.(durationMs)
      done()
    } catch {
      held = false
      clearInterval(timer)
    }
  }
  const timer = setInterval(() => {
    extending = extend()
  }, durationMs / 3)
  return {
    get held() {
      return held
    },
    async release() {
      clearInterval(timer)
      await extending
      await lock.release()
    },
  }
}

interface Queue {
  readonly waiting: NonNullable<Contestant['queue']>
  /** Anyone who waits gets it and gives it back: libraries that ask again and again do so until they are served. */
  readonly drained: () => Promise<void>
}

function queueOf({ wait }: Peer): Queue | undefined {
  if (wait === undefined) return undefined
  let denials = 0
  let closed = false
  const holds = new Set<Promise<Kept>>()
  const held = new Set<Kept>()
  const hold = async (lease: string): Promise<Kept> => {
    const waits = setTimeout(() => denials++, TAKEN_TO_WAIT_MS)
    const lock = await wait(lease, LONG_MS).finally(() => clearTimeout(waits))
    const kept: Kept = {
      held: true,
      async release() {
        held.delete(kept)
        await lock.release()
      },
    }
    held.add(kept)
    if (closed) await kept.release()
    return kept
  }
  return {
    waiting: {
      async hold(lease) {
        const holding = hold(lease)
        holds.add(holding)
        return holding.finally(() => holds.delete(holding))
      },
      denials: () => denials,
    },
    async drained() {
      closed = true
      await Promise.allSettled([...held].map((kept) => kept.release()))
      await Promise.race([Promise.allSettled(holds), pause(DRAINED_MS, undefined, { ref: false })])
    },
  }
}

/** `redlock 4.2.0`, of what is installed under that name. */
export function versionOf(dependency: string): string {
  const manifest = new URL(`../../node_modules/${dependency}/package.json`, import.meta.url)
  const { name, version } = JSON.parse(readFileSync(manifest, 'utf8')) as { name: string; version: string }
  return `${name} ${version.replace(/^v/, '')}`
}
