/** node-redlock, both of its versions in use, and the fork that took over: over one server, as with our own adapter. */
import { createRequire } from 'node:module'
import type { Redis } from 'ioredis'
import type { Adapter, Kept } from '../../bench.ts'
import type { PeerLock } from '../peer.ts'
import { redisPeer } from './peer.ts'

const require = createRequire(import.meta.url) // they have no types that resolve

interface LockOf4 {
  readonly expiration: number
  unlock(): Promise<void>
  extend(durationMs: number): Promise<unknown>
}

interface Redlock4 {
  on(event: 'clientError', listener: () => void): void
  lock(name: string, durationMs: number): Promise<LockOf4>
}

export const redlock4: Adapter = redisPeer({
  name: 'redlock4',
  dependency: 'redlock4',
  can: ['one', 'keep', 'queue', 'knows'],
  async connect(redis, prefix) {
    const Redlock = require('redlock4') as new (clients: readonly Redis[], options: object) => Redlock4
    const [once, untilGranted] = [new Redlock([redis], { retryCount: 0 }), new Redlock([redis], { retryCount: -1 })]
    for (const redlock of [once, untilGranted]) redlock.on('clientError', () => {})
    const locked = (lock: LockOf4): PeerLock => ({
      release: () => lock.unlock(),
      extend: (durationMs) => lock.extend(durationMs),
      held: () => lock.expiration > Date.now(),
    })
    return {
      acquire: async (lease, durationMs) => locked(await once.lock(prefix + lease, durationMs)),
      wait: async (lease, durationMs) => locked(await untilGranted.lock(prefix + lease, durationMs)),
    }
  },
})

interface LockOf5 {
  readonly expiration: number
  release(): Promise<unknown>
  extend(durationMs: number): Promise<LockOf5>
}

interface Redlock5 {
  on(event: 'error', listener: () => void): void
  acquire(names: string[], durationMs: number): Promise<LockOf5>
  using(
    names: string[],
    durationMs: number,
    settings: object,
    routine: (signal: AbortSignal) => Promise<void>,
  ): Promise<void>
}

type Redlock5Class = new (clients: readonly Redis[], settings: object) => Redlock5

export const redlock5: Adapter = redlockOfVersion5(
  'redlock5',
  'redlock5',
  () => (require('redlock5') as { default: Redlock5Class }).default,
)

export const sesamecare: Adapter = redlockOfVersion5(
  'sesamecare',
  '@sesamecare-oss/redlock',
  () => (require('@sesamecare-oss/redlock') as { Redlock: Redlock5Class }).Redlock,
)

function redlockOfVersion5(name: string, dependency: string, load: () => Redlock5Class): Adapter {
  return redisPeer({
    name,
    dependency,
    can: ['one', 'keep', 'queue', 'knows'],
    async connect(redis, prefix) {
      const Redlock = load()
      const [once, untilGranted] = [new Redlock([redis], { retryCount: 0 }), new Redlock([redis], { retryCount: -1 })]
      for (const redlock of [once, untilGranted]) redlock.on('error', () => {})
      const locked = (lock: LockOf5): PeerLock => ({
        release: () => lock.release(),
        held: () => lock.expiration > Date.now(),
      })
      return {
        acquire: async (lease, durationMs) => locked(await once.acquire([prefix + lease], durationMs)),
        wait: async (lease, durationMs) => locked(await untilGranted.acquire([prefix + lease], durationMs)),
        keep: (lease, durationMs) => usedUntilReleased(once, prefix + lease, durationMs),
      }
    },
  })
}

/** It extends what is used in a routine: this one ends with the release. */
async function usedUntilReleased(redlock: Redlock5, name: string, durationMs: number): Promise<Kept> {
  let end = (): void => {}
  const ended = new Promise<void>((resolve) => (end = resolve))
  const automaticExtensionThreshold = Math.floor(Math.min((durationMs * 2) / 3, durationMs - 100))
  return new Promise((resolve, reject) => {
    const used = redlock.using([name], durationMs, { automaticExtensionThreshold }, (signal) => {
      resolve({
        get held() {
          return !signal.aborted
        },
        async release() {
          end()
          await used
        },
      })
      return ended
    })
    used.catch(reject)
  })
}
