/** A stream of watches that says what it is asked to, in any order, and a driver that opens it. */
import type { EtcdDriver, EtcdWatchRequest } from 'lease-etcd'
import { EventEmitter } from 'node:events'
import { eventually } from 'lease-scenes'

type Create = NonNullable<EtcdWatchRequest['create_request']>

export interface FakeEvent {
  readonly key: string
  readonly revision: number
  readonly value?: string
  /** `0`: the key was removed. */
  readonly version?: string
}

export class FakeStream {
  readonly driver: EtcdDriver
  /** How often it was opened. */
  opened = 0
  /** What was asked for on the stream that is open now. */
  creates: Create[] = []
  cancels: string[] = []
  /** As far as they were answered. */
  #answered = 0
  #events = new EventEmitter()

  constructor() {
    this.driver = { watchClient: { watch: async () => this.#open() } } as unknown as EtcdDriver
  }

  #open(): object {
    this.opened++
    this.creates = []
    this.cancels = []
    this.#answered = 0
    const events = new EventEmitter()
    this.#events = events
    return Object.assign(events, {
      write: ({ create_request, cancel_request }: EtcdWatchRequest) => {
        if (create_request !== undefined) this.creates.push(create_request)
        if (cancel_request !== undefined) this.cancels.push(cancel_request.watch_id)
      },
      end: () => {},
      cancel: () => {},
    })
  }

  /** Waits until so many more watches are asked for, and says that they have begun. */
  async answersCreates(count: number, revision: number = 5): Promise<void> {
    await eventually(() => this.creates.length >= this.#answered + count)
    for (let more = 0; more < count; more++) this.answer(this.creates[this.#answered++]?.watch_id ?? '', { revision })
  }

  answer(watch_id: string, more: Record<string, unknown> & { readonly revision: number }): void {
    const { revision, ...rest } = more
    const header = { revision: String(revision) }
    this.#events.emit('data', { header, watch_id, created: true, canceled: false, events: [], ...rest })
  }

  /** Tells of one event to the watch of the first key that begins so. */
  says(prefix: string, ...events: FakeEvent[]): void {
    const { watch_id = '' } = this.creates.find(({ key }) => key.toString().startsWith(prefix)) ?? {}
    const kvs = events.map(({ key, revision, value = '', version = '1' }) => ({
      kv: { key: Buffer.from(key), value: Buffer.from(value), mod_revision: String(revision), version },
    }))
    this.answer(watch_id, { revision: events.at(-1)?.revision ?? 0, created: false, events: kvs })
  }

  breaks(): void {
    this.#events.emit('error', new Error('cut'))
  }
}
