/** What the failures of etcd and of its driver mean, and what to do about them. */
import { reasonOf } from 'lease-core'
import { StoreFailure, withoutSecrets } from 'lease-core/adapter'

/** What went wrong, as far as it changes what this adapter does. */
export type Failure =
  /** The etcd lease is gone; nothing of the transaction was applied. */
  | 'lease-gone'
  /** An etcd lease with this number is there: the grant was applied before. */
  | 'lease-there'
  /** Users, roles or passwords have changed since the driver logged in; nothing was applied. */
  | 'token-old'
  /** The driver's circuit breaker kept the request from being sent. */
  | 'breaker'
  /** The server cannot be reached, or has nobody to lead it: the request may have been applied. */
  | 'unavailable'
  /** No answer came before the deadline: the request may have been applied, or may be yet. */
  | 'silent'
  /** The answer is larger than the driver accepts. */
  | 'too-large'
  /** What was asked for is older than the history that etcd has kept. */
  | 'compacted'

interface Explanation {
  readonly pattern: RegExp
  readonly failure?: Failure
  /** It comes back until somebody changes the set-up. */
  readonly isSetUp?: true
  readonly words: string
}

/** Matched against the name of the error's class (the driver calls every error "Error") and its message. */
const explanations: readonly Explanation[] = [
  {
    pattern: /EtcdLeaseInvalidError|requested lease not found/,
    failure: 'lease-gone',
    words: 'an etcd lease that keys hang on was revoked, or is gone with the data of the server',
  },
  {
    pattern: /lease already exists/,
    failure: 'lease-there',
    words: 'etcd has an etcd lease with this number already',
  },
  {
    pattern: /database space exceeded/,
    words:
      'the database of etcd is full and takes nothing more: compact, defragment and disarm the NOSPACE alarm (etcdctl compact, defrag, alarm disarm), or raise --quota-backend-bytes; until then leases that are held lapse',
  },
  {
    pattern: /BrokenCircuitError|circuit breaker is open/,
    failure: 'breaker',
    words:
      'the circuit breaker of etcd3 is open after earlier failures, and nothing was sent: make the client with new Etcd3({ ...failFast(), hosts })',
  },
  {
    pattern: /etcdserver: (no leader|leader changed|request timed out|not ?leader|server stopped)/i,
    failure: 'unavailable',
    words: 'etcd has no leader at the moment: a majority of its members has to run and to reach each other',
  },
  {
    pattern: /revision in header is old|revision of auth store is old/,
    failure: 'token-old',
    words: 'users, roles or passwords of etcd have changed since this client logged in',
  },
  {
    pattern: /EtcdAuthenticationFailedError|authentication failed|authentication is not enabled/,
    isSetUp: true,
    words:
      'etcd refused the credentials: check the user and password of the option auth, and that authentication is enabled',
  },
  {
    pattern: /EtcdInvalidAuthTokenError|invalid auth token|user name is empty|GRPCUnauthenticatedError/,
    isSetUp: true,
    words: 'etcd does not know who this is: set the option auth of Etcd3 to a user and password',
  },
  {
    pattern: /EtcdPermissionDeniedError|permission denied/,
    isSetUp: true,
    words:
      'this user of etcd lacks a right: its role needs readwrite on the whole prefix (etcdctl role grant-permission ROLE readwrite --prefix PREFIX)',
  },
  {
    pattern: /too many requests/,
    failure: 'unavailable',
    words: 'etcd has more requests queued than it accepts: it is overloaded, or its disk is too slow',
  },
  {
    pattern: /too many operations in txn/,
    words: 'the server accepts fewer operations in a transaction than usual: leave --max-txn-ops at 128 or more',
  },
  {
    pattern: /request is too large/,
    words: 'the server accepts only smaller requests than usual: leave --max-request-bytes at 1.5 MiB or more',
  },
  {
    pattern: /Received message larger than max/,
    failure: 'too-large',
    words: 'the answer is larger than the driver accepts',
  },
  {
    pattern: /required revision has been compacted/,
    failure: 'compacted',
    words: 'the history of etcd was compacted while it was read',
  },
  {
    pattern: /GRPCDeadlineExceededError/,
    failure: 'silent',
    words: 'etcd gave no answer in time: is it overloaded, or without a leader, or the network broken?',
  },
  {
    pattern: /Failed to parse DNS address/,
    isSetUp: true,
    words: 'the address of etcd is not valid: hosts are such as http://127.0.0.1:2379, without a path',
  },
  {
    pattern: /ENOTFOUND|EAI_AGAIN|Name resolution failed/,
    failure: 'unavailable',
    words: 'the host name of the server cannot be resolved',
  },
  {
    // All members were avoided, each because another one seemed to answer.
    pattern: /GRPCUnavailableError|MemberAvoided/,
    failure: 'unavailable',
    words: 'etcd cannot be reached: is it running at this address, and does it speak TLS or not as the address says?',
  },
]

function explanationOf(error: unknown): Explanation | undefined {
  if (!(error instanceof Error)) return undefined
  const text = `${error.constructor.name}: ${error.message}`
  return explanations.find(({ pattern }) => pattern.test(text))
}

/** What kind of failure this is, through the explanation put around it. */
export function failureOf(error: unknown): Failure | undefined {
  return explanationOf(error instanceof Error ? (error.cause ?? error) : error)?.failure
}

/** The error with advice in front, or the error itself where there is none to give; `cause` is always the original. */
export function explained(error: unknown): unknown {
  const { words, isSetUp } = explanationOf(error) ?? {}
  return words === undefined
    ? error
    : new StoreFailure(withoutSecrets(`${words} (${(error as Error).message})`), { cause: error, isSetUp })
}

/** The same failure, of a call that sent nothing. */
export function unsent(error: unknown): StoreFailure {
  const { isSetUp, cause } = error instanceof StoreFailure ? error : { cause: error }
  return new StoreFailure(reasonOf(error), { cause, isSetUp, isNotDone: true })
}
