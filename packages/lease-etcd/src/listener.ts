/**
 * Hints by a watch of the namespace's leases, on a stream of its own: releases, expiries, takeovers, and keys that went
 * with their etcd lease, and who in line was granted one. Of claims and new values only those are told that are to be announced, by a key of their own:
 * otherwise every renewal of every holder would be sent to everyone.
 *
 * The stream is the bare one. etcd3's own watcher reconnects behind one's back, and forgets what happened meanwhile.
 */
import { changesIn, type Clock, type OpenHintConnection } from 'lease-core'
import type { EtcdDriver, EtcdWatchAnswer } from './driver.ts'
import { endOf, type Layout } from './layout.ts'

/** How long a new watch may take to begin: gRPC itself waits without end for a connection that stays silent. */
const OPENING_MS = 5_000

/** Of how many leases the last vacancy is remembered. A watch that is further behind is late by more than these. */
const MOST_VACANCIES = 10_000

/** etcd's own numbers. */
const NO_PUTS = 0
const NO_DELETES = 1

/** A call of grpc-js before it is sent, and how to make one. */
interface GrpcCall {
  start(metadata: GrpcMetadata, listener: unknown): void
}
interface GrpcMetadata {
  clone(): GrpcMetadata
  set(key: string, value: string): void
}

/** A member that is cut off from its leader ends the stream instead of falling silent. */
function requireLeader(options: never, next: (options: never) => GrpcCall): GrpcCall {
  const call = next(options)
  const start = call.start.bind(call)
  call.start = (metadata, listener) => {
    const own = metadata.clone() // the driver keeps one for all calls, with the user's token
    own.set('hasleader', 'true')
    start(own, listener)
  }
  return call
}

export interface WatchOptions {
  readonly clock: Clock
  /** Makes any call that is no watch, and rejects never: for that the driver logs in again where its token is refused. */
  readonly call: () => Promise<unknown>
}

/** Watches all leases of this namespace. */
export function watchLeases(etcd: EtcdDriver, layout: Layout, { clock, call }: WatchOptions): OpenHintConnection {
  const watched = [
    { key: layout.leases, range_end: endOf(layout.leases), filters: [NO_PUTS] },
    { key: layout.news, range_end: endOf(layout.news), filters: [NO_DELETES] },
    { key: layout.served, range_end: endOf(layout.served), filters: [NO_DELETES] },
  ]
  /** The letter that says what a key is about: `<root>/l/`. */
  const kindAt = layout.leases.length - 2
  /** The server has refused the last watch. The driver begins the next one with the same token. */
  let refused = false
  return async (tell, signal) => {
    if (refused) await call()
    refused = false
    const stream = await etcd.watchClient.watch({ interceptors: [requireLeader] })
    let end = (): void => {}
    const ended = new Promise<void>((resolve) => (end = resolve))
    let heard = (): void => {}
    const vacancies = new Vacancies()
    let created = 0
    // Half-closed first: etcd3 takes a stream cut off while it can be written to for a broken server, and drops its
    // other connections.
    const close = (): void => {
      stream.end()
      stream.cancel()
    }
    return await new Promise((resolve, reject) => {
      const opening = clock.setTimer(OPENING_MS, () => {
        fail(new Error('the watch did not begin in time'))
        // Not half-closed: so etcd3 drops the connections of this member, and the next watch gets another one.
        stream.cancel()
      })
      const fail = (error: Error): void => {
        opening.cancel()
        end()
        reject(error)
      }
      stream.on('error', fail)
      stream.on('end', () => fail(new Error('the watch ended')))
      stream.on('data', (answer: EtcdWatchAnswer) => {
        heard()
        if (answer.canceled) {
          refused = true
          fail(new Error(`the watch was cancelled: ${answer.cancel_reason ?? ''}`))
          close()
        } else if (answer.created) {
          if (++created < watched.length) return
          opening.cancel()
          resolve({
            ended,
            ping: () => {
              const answered = new Promise<void>((alive) => (heard = alive))
              stream.write({ progress_request: {} })
              return answered
            },
            close,
          })
        } else {
          for (const { kv } of answer.events) {
            const kind = kv.key[kindAt]
            const lease = layout.nameOf(kv.key)
            if (kind === layout.served[kindAt]) {
              if (!vacancies.isAfter(lease, kv.mod_revision)) changesIn(kv.value.toString()).forEach(tell)
            } else if (kind === layout.news[kindAt]) tell({ kind: 'changed', lease })
            else {
              vacancies.add(lease, kv.mod_revision)
              tell({ kind: 'vacated', lease })
            }
          }
        }
      })
      const abandon = (): void => {
        close()
        fail(signal.reason as Error)
      }
      if (signal.aborted) abandon()
      else {
        signal.addEventListener('abort', abandon, { once: true })
        for (const create_request of watched) stream.write({ create_request })
      }
    })
  }
}

/**
 * When leases became vacant, by the store's revisions. Each of the watches of a stream is in order, but one may be behind another:
 * that a waiter was granted a lease must not be heard after its release, or the next waiter sleeps for nothing.
 */
class Vacancies {
  readonly #revisions = new Map<string, number>()

  add(lease: string, revision: string): void {
    this.#revisions.delete(lease)
    this.#revisions.set(lease, Number(revision))
    if (this.#revisions.size <= MOST_VACANCIES) return
    for (const oldest of this.#revisions.keys()) {
      this.#revisions.delete(oldest)
      return
    }
  }

  isAfter(lease: string, revision: string): boolean {
    return (this.#revisions.get(lease) ?? 0) > Number(revision)
  }
}
