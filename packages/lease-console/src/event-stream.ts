/**
 * Server-sent events that carry whole states. Each event replaces everything before it, so a viewer that reconnects, or is slow, misses
 * nothing that still matters.
 */
import type { Clock, Timer } from 'lease-core'

/** Keeps proxies from closing the connection; a comment, which the browser ignores. */
const HEARTBEAT_MS = 15_000
/** A stream then ends, the browser reconnects, and `authorize` decides anew. */
const LIFETIME_MS = 300_000
/** After how many milliseconds the browser reconnects. */
const RETRY_MS = 2_000

export interface EventStreamOptions {
  readonly clock: Clock
  /** Begins to call back when the state may have changed; returns what ends that. */
  watch(changed: () => void): () => void
  /** What to send now: the state, and what is always sent, also if the state has not changed. */
  current(): { readonly state: object; readonly pulse: object }
  /** Called once, when the stream is over. */
  onEnd(stream: EventStream): void
}

/** The body of one response, until the viewer leaves, `end` is called, or its time is over. */
export class EventStream {
  readonly body: ReadableStream<Uint8Array>
  readonly #options: EventStreamOptions
  readonly #encoder = new TextEncoder()
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined
  #unwatch: (() => void) | undefined
  #heartbeat: Timer | undefined
  #lifetime: Timer | undefined
  /** The state that was sent last. */
  #sent = ''
  /** Something was not sent, because the viewer is slow. */
  #isBehind = false

  constructor(options: EventStreamOptions) {
    this.#options = options
    this.body = new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          this.#controller = controller
          this.#write(`retry: ${RETRY_MS}\n\n`)
          this.#lifetime = options.clock.setTimer(LIFETIME_MS, () => this.end())
          this.#beat()
          this.#unwatch = options.watch(() => this.#send())
          this.#send()
        },
        pull: () => {
          if (this.#isBehind) this.#send()
        },
        cancel: () => this.#stop(),
      },
      { highWaterMark: 8 },
    )
  }

  /** Ends the response; the browser reconnects if it can. Idempotent. */
  end(): void {
    const controller = this.#controller
    this.#stop()
    controller?.close()
  }

  #send(): void {
    if (this.#controller === undefined) return
    this.#isBehind = (this.#controller.desiredSize ?? 0) <= 0
    if (this.#isBehind) return
    const { state, pulse } = this.#options.current()
    const text = JSON.stringify(state)
    const event = text === this.#sent ? 'pulse' : 'state'
    this.#sent = text
    this.#write(`event: ${event}\ndata: ${JSON.stringify(event === 'pulse' ? pulse : { ...state, ...pulse })}\n\n`)
  }

  #beat(): void {
    this.#heartbeat = this.#options.clock.setTimer(HEARTBEAT_MS, () => {
      this.#write(': heartbeat\n\n')
      this.#beat()
    })
  }

  #write(text: string): void {
    this.#controller?.enqueue(this.#encoder.encode(text))
  }

  #stop(): void {
    if (this.#controller === undefined) return
    this.#controller = undefined
    this.#heartbeat?.cancel()
    this.#lifetime?.cancel()
    this.#unwatch?.()
    this.#options.onEnd(this)
  }
}
