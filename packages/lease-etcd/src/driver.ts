/**
 * The shape of the driver: only the methods that are called. An `Etcd3` of the package etcd3 fits as it is; another
 * driver can be wrapped. Numbers of 64 bits travel as decimal strings.
 */

/** When a call is over, answered or not: milliseconds since the epoch. */
export interface EtcdCallOptions {
  readonly deadline: number
  /** A driver that knows none may ignore them: they only make a call cheaper. */
  // oxlint-disable-next-line typescript/no-explicit-any -- grpc-js's own type
  readonly interceptors?: any[]
}

/** One key of the store. */
export interface EtcdKeyValue {
  readonly key: Buffer
  readonly value: Buffer
  readonly create_revision: string
  readonly mod_revision: string
  /** How often it was put since it was created. */
  readonly version: string
  /** The etcd lease that the key hangs on; `0` for none. */
  readonly lease: string
}

export interface EtcdRange {
  readonly key: Buffer
  readonly range_end?: Buffer
  readonly limit?: number
  readonly revision?: string
  readonly keys_only?: boolean
  readonly count_only?: boolean
  /** Numbers of etcd's own enumerations. */
  readonly sort_order?: number
  readonly sort_target?: number
}

export interface EtcdRangeAnswer {
  readonly header: { readonly revision: string }
  readonly kvs: readonly EtcdKeyValue[]
  readonly more: boolean
}

/** One condition of a transaction. The numbers are those of etcd's own enumerations (`EQUAL`, `GREATER`, …). */
export interface EtcdCompare {
  readonly key: Buffer
  /** It is met by all keys from `key` up to this one. */
  readonly range_end?: Buffer
  readonly result: number
  readonly target: number
  readonly version?: string
  readonly create_revision?: string
  readonly mod_revision?: string
  readonly value?: Buffer
}

/** One request inside a transaction; exactly one field is there. */
export interface EtcdRequest {
  readonly request_range?: EtcdRange
  readonly request_put?: {
    readonly key: Buffer
    readonly value?: Buffer
    readonly lease?: string
    readonly ignore_value?: boolean
  }
  readonly request_delete_range?: { readonly key: Buffer; readonly range_end?: Buffer }
  readonly request_txn?: EtcdTxn
}

export interface EtcdTxn {
  compare?: EtcdCompare[]
  success?: EtcdRequest[]
  failure?: EtcdRequest[]
}

/** The answer to one request inside a transaction; one field is there. */
export interface EtcdAnswer {
  /** `count` is that of all keys in the range, however few are asked for. */
  readonly response_range: { readonly kvs: readonly EtcdKeyValue[]; readonly count: string }
  readonly response_txn: { readonly succeeded: boolean; readonly responses: readonly EtcdAnswer[] }
}

export interface EtcdTxnAnswer {
  readonly header: { readonly revision: string }
  readonly succeeded: boolean
  readonly responses: readonly EtcdAnswer[]
}

/** What a watch has to say. */
export interface EtcdWatchAnswer {
  readonly header: { readonly revision: string }
  readonly watch_id: string
  readonly created: boolean
  readonly canceled: boolean
  readonly cancel_reason?: string
  /** Where a watch ended because what it should tell of is gone: the first revision that is not. */
  readonly compact_revision?: string
  /** `prev_kv`: what the key was before, where that was asked for. */
  readonly events: readonly { readonly kv: EtcdWatchedKey; readonly prev_kv?: EtcdKeyValue | null }[]
}

/** The `version` of a key that was removed is `0`. */
export type EtcdWatchedKey = Pick<EtcdKeyValue, 'key' | 'value' | 'mod_revision' | 'version'>

export interface EtcdWatchRequest {
  readonly create_request?: {
    readonly key: Buffer
    readonly range_end?: Buffer
    readonly filters: number[]
    readonly prev_kv?: boolean
    readonly watch_id: string
    readonly start_revision?: string
  }
  readonly cancel_request?: { readonly watch_id: string }
}

/** One stream of watches. */
export interface EtcdWatchStream {
  on(event: 'data', listener: (answer: EtcdWatchAnswer) => void): unknown
  on(event: 'error', listener: (error: Error) => void): unknown
  on(event: 'end', listener: () => void): unknown
  write(request: EtcdWatchRequest): unknown
  end(): unknown
  cancel(): unknown
}

/** What the substrate needs of an `Etcd3`. */
export interface EtcdDriver {
  /** The prefix that its own methods put in front of every key; it must be empty. */
  readonly prefix: Buffer
  readonly kv: {
    range(request: EtcdRange, options: EtcdCallOptions): Promise<EtcdRangeAnswer>
    txn(request: EtcdTxn, options: EtcdCallOptions): Promise<EtcdTxnAnswer>
  }
  readonly leaseClient: {
    leaseGrant(
      request: { ID: string; TTL: number },
      options: EtcdCallOptions,
    ): Promise<{ readonly ID: string; readonly TTL: string }>
    /** A driver that has none leaves etcd leases behind that nothing hangs on, until they end by themselves. */
    leaseRevoke?(request: { ID: string }, options: EtcdCallOptions): Promise<unknown>
  }
  readonly watchClient: {
    // oxlint-disable-next-line typescript/no-explicit-any -- grpc-js's own type
    watch(options: { interceptors: any[] }): Promise<EtcdWatchStream>
  }
  readonly maintenance: {
    status(options: EtcdCallOptions): Promise<{ readonly version: string }>
    alarm(request: { action: 0 }, options: EtcdCallOptions): Promise<{ readonly alarms: readonly EtcdAlarm[] }>
  }
}

export interface EtcdAlarm {
  /** `NOSPACE` or `CORRUPT`; typings and answers spell it differently. */
  readonly alarm: string
}

/** A client to start a transaction from. An `Etcd3` fits; one of its `namespace()`s does not. */
export interface EtcdTransactions<Builder> {
  readonly prefix: Buffer
  if(key: string, column: 'Create', cmp: '==', value: string): Builder
}

/** A transaction under construction. etcd3's `ComparatorBuilder` fits. */
export interface EtcdComparisons {
  and(key: string, column: 'Create', cmp: '==', value: string): unknown
}
