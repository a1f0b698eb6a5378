/** What the test command and the process of one test file say to each other. Sent as structured clones: bigints survive. */

/** What a process is to run next; or it is to end, whatever tests left open. */
export type Order = Work | 'end'

export interface Work {
  /** The built file. */
  readonly file: string
  /** Only this part of its top-level suites; undefined for all. */
  readonly part: Part | undefined
  /** Leaves out top-level suites whose title matches. */
  readonly exclude: RegExp | undefined
  /** Only tests whose full title matches. */
  readonly grep: RegExp | undefined
  /** How long each test and hook may take, unless it says so itself. */
  readonly timeoutMs: number
  /** Ends with the first test that fails. */
  readonly bail: boolean
}

/** The top-level suite number `index`; with `last`, all later ones too. */
export interface Part {
  readonly index: number
  readonly last: boolean
}

/** One test, or one hook that failed. */
export interface Outcome {
  /** Titles of the suites, then of the test. */
  readonly path: readonly string[]
  readonly state: 'passed' | 'failed' | 'skipped'
  readonly ms: number
  /** For people: message, difference and stack. */
  readonly failure: string | undefined
}

/** From the process of a test file. */
export type Message =
  | {
      /** It will use these servers: sent once, answered by {@link Reply}. */
      readonly kind: 'needs'
      readonly servers: readonly string[]
    }
  | { readonly kind: 'outcome'; readonly outcome: Outcome }
  | {
      /** The last message about a file; the process waits for its next order. */
      readonly kind: 'end'
      /** How long each top-level suite took, for the next run's order. */
      readonly suitesMs: readonly number[]
      /** How long the process has computed for it. */
      readonly cpuMs: number
      /** Whether a grep was given and something matched it, or none was given. */
      readonly matched: boolean
    }

/** How to reach the servers, as text for the environment. */
export interface Reply {
  readonly targets: string
}
