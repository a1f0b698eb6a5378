/**
 * Hints for those who hear of everything in a namespace: releases, expiries, takeovers, and keys that went with their etcd lease; which
 * ticket was granted a lease; and the claims and new values that are announced, by a key of their own, for otherwise every renewal
 * of every holder would be sent to everyone.
 */
import { changesIn, HintListeners, LatestMap } from 'lease-core/adapter'
import { endOf, type Layout } from './layout.ts'
import { NO_DELETES, NO_PUTS, type Failed, type Login, type Watches, type WatchListener } from './watches.ts'

/** Of how many leases the last vacancy is remembered. A watch that is further behind is late by more than these. */
const MOST_VACANCIES = 10_000

export interface NamespaceHintsOptions {
  readonly watches: Watches
  readonly layout: Layout
  readonly login: Login
  /** Is called when the server refuses a watch. */
  readonly onDenied: (reason: string) => void
  readonly onFailed?: Failed
}

export class NamespaceHints extends HintListeners {
  readonly #closes: readonly (() => void)[]
  readonly #letGo: () => Promise<void>

  constructor({ watches, layout, login, onDenied, onFailed }: NamespaceHintsOptions) {
    super()
    const vacancies = new Vacancies()
    const listener = (event: WatchListener['event'], begun: () => void = ignore): WatchListener => ({
      begun,
      event,
      denied: onDenied,
    })
    const range = (key: Buffer, filter: number) => ({ key, range_end: endOf(key), filters: [filter] })
    this.#letGo = watches.keep(login, onFailed)
    this.#closes = [
      watches.open(
        range(layout.served, NO_DELETES),
        listener(({ key, value }, { revision }) => {
          if (!vacancies.isAfter(layout.nameOf(key), revision)) changesIn(value.toString()).forEach(this.tell)
        }),
      ),
      watches.open(
        range(layout.news, NO_DELETES),
        listener(({ key }) => this.tell({ kind: 'changed', lease: layout.nameOf(key) })),
      ),
      watches.open(
        range(layout.leases, NO_PUTS),
        listener(
          ({ key }, { revision }) => {
            const lease = layout.nameOf(key)
            vacancies.add(lease, revision)
            this.tell({ kind: 'vacated', lease })
          },
          () => this.begin(),
        ),
        { last: true },
      ),
    ]
  }

  async close(): Promise<void> {
    this.clear()
    for (const close of this.#closes) close()
    await this.#letGo()
  }
}

/**
 * When leases became vacant, by the store's revisions. Each watch is in order, but one may be behind another: that a waiter was
 * granted a lease must not be heard after its release, or the next waiter sleeps for nothing.
 */
class Vacancies {
  readonly #revisions = new LatestMap<number>(MOST_VACANCIES)

  add(lease: string, revision: number): void {
    this.#revisions.set(lease, revision)
  }

  isAfter(lease: string, revision: number): boolean {
    return (this.#revisions.get(lease) ?? 0) > revision
  }
}

function ignore(): void {}
