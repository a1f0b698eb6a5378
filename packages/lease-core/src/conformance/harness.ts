/** What the kit needs from outside: a test runner, and a harness that knows how to reach the store under test. */
import type { Client } from '../client.ts'
import type { Clock } from '../clock.ts'
import type { Trapdoor } from '../lease.ts'

/**
 * The four functions that mocha, node:test, vitest and jest (`before: beforeAll, after: afterAll`) have in common.
 * Allow each test a minute on a real server, however fast it is: the kit waits for up to 55 seconds before it reports what
 * has not happened, and has no other limit.
 *
 * With a real clock the first test of a suite that runs starts all clauses of the suite, eight at once, and each test
 * awaits the outcome of its own clause. So a filter for one title also runs the rest of its suite, the first tests seem to
 * take the time of all, and tests of one suite must run in the same process. Clauses that need the store for themselves
 * (restarts, races, thousands of leases) run alone, after the others.
 */
export interface Runner {
  describe(title: string, body: () => void): unknown
  readonly it: TestFunction
  before(body: () => Promise<void>): unknown
  after(body: () => Promise<void>): unknown
}

export interface TestFunction {
  (title: string, body: () => Promise<void>): unknown
  /** Reports a clause that this substrate does not have, with the reason in its title. Absent: `it(title)` alone. */
  readonly skip?: ((title: string, body: () => Promise<void>) => unknown) | undefined
}

/** What the substrate can do by its nature. A clause that needs more is reported as skipped, with the reason. */
export interface Supports {
  /** `subscribe` hears of what other clients do. */
  readonly notifications: boolean
  /** Those who wait get tickets (`ClientCallOptions.ticket`). */
  readonly queues?: boolean | undefined
  /** `client.counted`, and claims of shares. */
  readonly shares?: boolean | undefined
  /** A client that listens to what is its `own` is notified of that and of nothing else. */
  readonly addressed?: boolean | undefined
  /**
   * The store measures time itself, so anybody may take over a lapsed lease at once. Otherwise a client must have
   * watched the lease for its whole duration first.
   */
  readonly serverClock: boolean
  /**
   * Whether `Faults.repeat` copies claims and pins as a network does: below whatever the adapter does to tell copies apart. A
   * `FaultySubstrate` does where each call of the port is one request to the store. @default `serverClock`
   */
  readonly repeats?: boolean | undefined
  /** Store and harness share one clock that stands still between two calls of `sleep`: exact instants can be met. */
  readonly exactClock?: boolean | undefined
}

/** How the kit reaches one substrate. Leases have names unique to each test, namespaces are unique to each run. */
export interface Harness {
  /** Heads the report. */
  readonly name: string
  readonly supports: Supports
  /**
   * The test clock that the clients run on. Its time is shared, so clauses run one after the other, and their bounds are exact.
   *
   * @default the machine's clocks: clauses run side by side, and pass however late anything comes
   */
  readonly clock?: Clock | undefined
  /** Lets this much time pass: really waits, or advances a test clock and lets everything woken come to rest. */
  sleep(delayMs: number): Promise<void>
  /**
   * The shortest comfortable lease: well above a usual round trip (100 on a test clock, 250 on a network). Where the store
   * was too slow for it the kit tries again with twice the time, so a large unit only makes the kit slower.
   */
  readonly unitMs: number
  /** How much later than its expiry the store may notice that a lease has lapsed. @default 0 */
  readonly lateMs?: number | undefined
  /** How many leases the clauses about thousands claim at once. @default 3000 */
  readonly thousands?: number | undefined
  /**
   * A new client, as if in another process. The kit closes it. Up to forty are open at once on a real clock, usually twenty:
   * mind the server's limit of connections.
   */
  open(namespace: string): Promise<Client>
  /**
   * A client whose way to the store can be broken. The kit says how long a request of this client may take: two units where
   * the store is to hang, and on a test clock; otherwise so long that a slow store never counts as broken.
   */
  openFaulty?: ((namespace: string, requestTimeoutMs: number) => Promise<FaultyClient>) | undefined
  /** Stops the store and starts it again with what it has kept. Open clients may lose their connections. */
  restart?: (() => Promise<void>) | undefined
  /** How to use the trapdoor of this substrate. Absent: it has none (`lockedTrapdoor`). */
  readonly guard?: Guard | undefined
}

export interface FaultyClient {
  readonly client: Client
  readonly faults: Faults
}

/**
 * Breaks the way between a client and its store. Nothing is broken until a method is called. Of several faults that a request might meet
 * it meets the one that was asked for first, and delays with any.
 */
export interface Faults {
  /** The next `count` operations or reads never reach the store; the client learns that the connection broke. @default all, until `heal` */
  loseRequests(count?: number): void
  /** The next `count` operations or reads are carried out, but the reply is lost: the connection breaks instead. @default all, until `heal` */
  loseReplies(count?: number): void
  /** From now on every request takes this long before it reaches the store. */
  delayRequests(delayMs: number): void
  /** From now on every reply takes this long after the request was carried out. */
  delayReplies(delayMs: number): void
  /** From now on requests neither reach the store nor fail, until `heal`; those given up by then are lost. */
  hang(): void
  /**
   * From now on the next `count` requests that would change something stand still on their way; reads pass. Nobody can call them
   * back: they stay on their way when the client gives them up. @default all, until they are let go
   */
  holdBack(count?: number): Packets
  /**
   * Each of the next `count` requests that would change something reaches the store at once, and its reply is the answer. A copy
   * of it stays on its way, as if a driver had sent it twice and the first one had been delayed. @default all, until they are let go
   */
  repeat(count?: number): Packets
  /** Ends all of the above, but for what is on its way already. */
  heal(): void
}

/** Requests, or copies of requests, on their way to the store. */
export interface Packets {
  /** How many there are now. */
  readonly count: number
  /**
   * They go on: all of them reach the store, in order. Resolves when the store has worked on the last one. Whatever the client sends
   * from now on passes. Nobody hears the reply to a copy, nor to what was given up.
   */
  letGo(): Promise<void>
}

/** A transaction of the caller's own, gated by a trapdoor. */
export interface Guard {
  /**
   * Runs one transaction that records `text` for good and is gated by the trapdoor with a key of this substrate.
   * Resolves once it is committed; rejects with what the trapdoor rejected with, and then nothing is recorded.
   */
  write(trapdoor: Trapdoor, text: string): Promise<void>
  /** Every text that was committed; texts of clauses that run meanwhile may be among them. */
  written(): Promise<readonly string[]>
  /**
   * Takes a key that needs a transaction to the trapdoor while none is open, such as a plain connection. Absent: this substrate has
   * no such key.
   */
  outside?(trapdoor: Trapdoor): Promise<void>
}
