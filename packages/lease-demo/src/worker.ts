/**
 * A worker process: takes orders, holds the leases of both accounts, moves the money, releases.
 *
 * Between the last check of its leases and the write it waits at the gate, and nothing else of it runs during that time.
 * Any pause that comes at the wrong moment is like that (garbage collection, a swapped page, a suspended virtual machine).
 * The story opens the gate, and so decides when the pause comes.
 */
import { readSync, writeSync } from 'node:fs'
import { ErrClaimDenied, ErrUnknown, Manager, type Hold, type HoldOptions } from 'lease-core'
import type { Ledger } from './ledger.ts'
import { GATE, type FromWorker, type ToWorker } from './protocol.ts'
import { isOver, transfer, type Order } from './transfer.ts'
import { ledgerAt } from './venues.ts'

/**
 * For how many lease durations a claim that gets no answer is made again: a machine with too much to do is slow, a server is
 * gone.
 */
const PATIENCE = 2.5

const REHEARSAL_MS = 2000

type Engagement = Extract<ToWorker, { kind: 'start' }>

class Worker {
  readonly #name: string
  readonly #guarded: boolean
  readonly #ledger: Ledger
  readonly #manager: Manager
  /** The write is on its way: what fails from now on is the write. */
  #sent = false

  constructor({ name, guarded }: Engagement, ledger: Ledger) {
    this.#name = name
    this.#guarded = guarded
    this.#ledger = ledger
    this.#manager = new Manager({ client: ledger.client })
    this.#manager.events.subscribe((event) => {
      if (event.type === 'lost') void tell({ kind: 'lost', account: event.lease, reason: event.reason })
    })
  }

  /** Claims and releases a lease of its own, as a transfer does. Returns the fencing token of that lease. */
  async rehearse(): Promise<bigint> {
    const hold = await this.#hold(`rehearsal-${this.#name}`, REHEARSAL_MS)
    await hold[Symbol.asyncDispose]()
    return hold.fencingToken
  }

  /** Until it is done: a refused write was not done, and everything is read anew under new leases. */
  async perform(order: Order, leaseMs: number): Promise<void> {
    for (let done = false; !done;) {
      this.#sent = false
      try {
        await this.#transfer(order, leaseMs)
        done = true
      } catch (error) {
        if (!isOver(error)) throw error
        await tell({ kind: this.#sent ? 'refused' : 'lapsed', order, message: error.message })
      }
    }
    await tell({ kind: 'idle' })
  }

  async #transfer(order: Order, leaseMs: number): Promise<void> {
    const holds = new Map<string, Hold>()
    try {
      // Everyone takes the leases in the same order, so nobody waits in a circle.
      for (const account of [order.from, order.to].toSorted()) {
        const hold = await this.#hold(account, leaseMs)
        holds.set(account, hold)
        await tell({ kind: 'held', account, fencingToken: hold.fencingToken })
      }
      let next = {}
      await transfer(this.#ledger, order, {
        holds,
        guarded: this.#guarded,
        beforeWrite: async (balances) => {
          next = balances
          await tell({ kind: 'writing', order, next })
        },
        blindSpot: waitAtGate,
        sent: () => {
          this.#sent = true
          void tell({ kind: 'sent' })
        },
      })
      const late = [...holds.values()].some((hold) => !hold.held)
      await tell({ kind: 'moved', order, next, late })
    } finally {
      for (const hold of holds.values()) await hold[Symbol.asyncDispose]()
    }
  }

  async #hold(account: string, leaseMs: number): Promise<Hold> {
    let wait: HoldOptions['wait'] = false
    let unansweredSinceMs: number | undefined
    for (;;) {
      try {
        return await this.#manager.hold(account, this.#name, { duration: leaseMs, wait })
      } catch (error) {
        if (error instanceof ErrClaimDenied) {
          if (wait === false) await tell({ kind: 'denied', account, by: error.currentHolder })
          wait = { milliseconds: 2 * leaseMs } // not without an end: then nobody would say that the server is gone
          unansweredSinceMs = undefined
          continue
        }
        unansweredSinceMs ??= performance.now()
        const patienceIsOver = performance.now() - unansweredSinceMs > PATIENCE * leaseMs
        if (!(error instanceof ErrUnknown) || patienceIsOver) throw error
        // Unknown: no answer in time. Claimed again, a lease that was granted after all is simply renewed.
      }
    }
  }
}

/** Blocks the whole process until the story lets it write. */
function waitAtGate(): void {
  writeSync(GATE, '.') // at the gate: the last check lies behind
  for (;;) {
    try {
      if (readSync(GATE, Buffer.alloc(1)) === 0) process.exit(1) // the story is over
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EINTR') throw error
    }
  }
}

async function tell(message: FromWorker): Promise<void> {
  await new Promise<void>((resolve) => process.send?.(message, () => resolve()))
}

let worker: Worker | undefined

async function obey(message: ToWorker): Promise<void> {
  if (message.kind === 'start') {
    worker = new Worker(message, await ledgerAt(message.place))
    await worker.rehearse() // the first request also connects
    await tell({ kind: 'ready' })
  } else if (message.kind === 'rehearse') {
    if (worker !== undefined) await tell({ kind: 'rehearsed', fencingToken: await worker.rehearse() })
  } else await worker?.perform(message.order, message.leaseMs)
}

process.on('SIGINT', () => {}) // Ctrl-C reaches everybody; the story ends its workers itself
process.on('disconnect', () => process.exit(1))
process.on('message', (message: ToWorker) => {
  obey(message).catch((error: unknown) => {
    const cause = error instanceof Error && error.cause instanceof Error ? ` (${error.cause.message})` : ''
    void tell({ kind: 'failed', message: `${String(error)}${cause}` })
  })
})
