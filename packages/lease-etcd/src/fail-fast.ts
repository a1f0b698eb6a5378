/** How an `Etcd3` should treat failures. */
import type { IOptions } from 'etcd3'
import { systemClock } from 'lease-core'
import { endsWithChannel } from './closed-channels.ts'
import { Members } from './members.ts'

export interface FailFastOptions {
  /** How long a call of your own may take, in milliseconds, where it does not say so itself. @default 5000 */
  readonly callTimeoutMs?: number | undefined
}

type Policy = NonNullable<NonNullable<IOptions['faultHandling']>['global']>

/** Nobody aborts it, and nobody listens: one serves all calls. */
const never = new AbortController().signal
const nothingToUndo = { dispose: (): void => {} }

/** Runs what it is given at most once. */
function atMostOnce(execute: Policy['execute']): Policy {
  return {
    _altReturn: undefined as never,
    onSuccess: () => nothingToUndo,
    onFailure: () => nothingToUndo,
    execute,
  }
}

const once = atMostOnce(async (body, signal = never) => body({ signal }))

/** How long etcd3 may wait for one member when it logs in: it asks one after the other. */
const LOGIN_MS = 2_000

/**
 * Options for `new Etcd3({ hosts, ...failFast() })`: a call that fails is reported at once, none hangs, and none is sent
 * twice behind one's back.
 *
 * - No circuit breaker: etcd3's own keeps failing calls for five seconds after a short outage is over.
 * - No hidden retries: etcd3 repeats every call, also transactions that must not be; this library retries by itself.
 * - A member that leaves a call unanswered, or cannot be reached, is avoided while another one answers. One call tries it again
 *   each ten seconds.
 * - An established connection that falls silent ends seven seconds later, while a call or a watch is open on it. Any
 *   connection ends as soon as a call on it has reached its deadline. The next call makes another connection. Without
 *   `failFast()` gRPC waits without end for a new connection that stays silent.
 * - A connection that etcd3 has replaced or closed does not stay open.
 * - Servers that are back are found within a second or so; gRPC itself may let two minutes pass after a long outage.
 * - Calls that carry no deadline get one; by default etcd3 waits for ever.
 */
export function failFast({ callTimeoutMs = 5_000 }: FailFastOptions = {}): Required<
  Pick<IOptions, 'faultHandling' | 'grpcOptions' | 'defaultCallOptions'>
> {
  const defaultCallOptions: NonNullable<IOptions['defaultCallOptions']> = ({ isStream, method }) => {
    if (isStream) return {}
    const timeoutMs = method === 'authenticate' ? Math.min(LOGIN_MS, callTimeoutMs) : callTimeoutMs
    return { deadline: systemClock.now() + timeoutMs }
  }
  made.add(defaultCallOptions)
  let members = new Members()
  return {
    faultHandling: {
      // Each Etcd3 reads it when it is made, before it asks for the policies of its own members.
      get global() {
        members = new Members()
        return once
      },
      host: (name) => {
        const own = members
        own.add(name)
        return atMostOnce((body, signal = never) => own.call(name, () => body({ signal })))
      },
    },
    grpcOptions: {
      // A server closes connections that ping more often than every five seconds, or while no call is open.
      'grpc.keepalive_time_ms': 6_000,
      'grpc.keepalive_timeout_ms': 1_000,
      'grpc.keepalive_permit_without_calls': 0,
      // Each attempt lets 1.6 times as much pass as the one before.
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1_000,
      // Otherwise what etcd3 makes in the place of a silent connection is the same connection: gRPC shares those that are in use.
      'grpc.use_local_subchannel_pool': 1,
      callInvocationTransformer: endsWithChannel,
    },
    defaultCallOptions,
  }
}

/** What was made here. */
const made = new WeakSet<object>()

/** Whether this is an `Etcd3` that sends each request once: neither it nor a wrapper around its calls repeats one by itself. */
export function sendsOnce(etcd: object): boolean {
  const { options, kv } = etcd as { options?: IOptions; kv?: object }
  return options?.faultHandling?.global === once && kv?.constructor.name === 'KVClient' && !Object.hasOwn(kv, 'txn')
}

/** How many members it may ask. */
export function membersOf(etcd: object): number {
  const { hosts } = (etcd as { options?: IOptions }).options ?? {}
  return Array.isArray(hosts) ? hosts.length : 1
}

/** Whether these default options of calls are those of `failFast`, which set a deadline and nothing else. */
export function isFailFast(defaultCallOptions: unknown): boolean {
  return typeof defaultCallOptions === 'function' && made.has(defaultCallOptions)
}
