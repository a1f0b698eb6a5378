/**
 * How the requests of many operations travel in one transaction, and which answer is whose.
 *
 *     alone     if its conditions: what it does · else: what it reads instead
 *     merged    if all conditions of all that are likely: what each of these does, and the others as below · else: nothing
 *     nested    each a transaction inside, with conditions of its own
 *
 * Where one of them opens a term, sets a pin or changes a value, the whole also looks at the epoch of the client (`epochs.ts`).
 *
 * Nested is what always brings a verdict for each, and expensive: twice the messages to encode, and to decode. Renewals and
 * releases mostly find what they expect, so they are merged at first; where a single one of them does not, nothing at all
 * was done, and the same goes out again nested.
 */
import type { EtcdAnswer, EtcdCompare, EtcdRequest, EtcdTxn, EtcdTxnAnswer } from './driver.ts'
import type { EpochCheck } from './epochs.ts'

/** A request on its way. */
export interface Bundled {
  readonly request: EtcdRequest
  /** Where `likely`, its conditions are most likely met: it may share its fate with others. */
  readonly step: { readonly likely?: boolean }
}

export interface Bundle {
  readonly txn: EtcdTxn
  /** Nothing but renewals, merged: of the answer only the whole is looked at. */
  readonly onlyRenewals?: boolean
  /** The answer to each request, in order; undefined: nothing was done, and it is to be sent nested. */
  readonly answersIn: (answer: EtcdTxnAnswer) => readonly EtcdAnswer[] | undefined
  /** The answers to what the check reads where the transaction was not executed; undefined: it was. */
  readonly checkIn: (answer: EtcdTxnAnswer) => readonly EtcdAnswer[] | undefined
}

export interface BundleOptions {
  /** Likely ones may share their fate. */
  readonly merging: boolean
  /** What else the transaction demands. */
  readonly check?: EpochCheck | undefined
}

/** These requests in one transaction. */
export function bundle(requests: readonly Bundled[], { merging, check }: BundleOptions): Bundle {
  const alone = requests.length === 1 ? requests[0]?.request.request_txn : undefined
  // What is too late must not write what it would write where its own conditions are not met; a level must rise all the same.
  const writesElse = alone?.failure?.some(({ request_range }) => request_range === undefined) === true
  const mayBeAlone = check === undefined || !(check.raises || writesElse)
  if (alone !== undefined && mayBeAlone) {
    return {
      txn: check === undefined ? alone : checked(alone, check),
      answersIn: (answer) => [inside(answer)],
      checkIn: ({ succeeded, responses }) => (succeeded ? undefined : responses.slice(-(check?.failure.length ?? 0))),
    }
  }
  if (merging && requests.some(({ step }) => step.likely)) return merged(requests, check)
  const nested: EtcdTxn = { compare: [], success: requests.map(({ request }) => request), failure: [] }
  return {
    txn: check === undefined ? nested : checked(nested, check),
    answersIn: ({ responses }) => responses,
    checkIn: ({ succeeded, responses }) => (succeeded ? undefined : responses),
  }
}

/** What the check does and reads comes last. */
function checked({ compare = [], success = [], failure = [] }: EtcdTxn, check: EpochCheck): EtcdTxn {
  return {
    compare: [...compare, ...check.compare],
    success: [...success, ...check.success],
    failure: [...failure, ...check.failure],
  }
}

/** What a merged request is notified that has only written: what is known from the revision of the whole. */
const done = inside({ succeeded: true, responses: [] })

/** Where in the answers those of one request are. */
interface Span {
  readonly from: number
  readonly count: number
  readonly isMerged: boolean
}

function merged(requests: readonly Bundled[], check: EpochCheck | undefined): Bundle {
  /** A condition that several share is sent once. */
  const conditions = new Set<EtcdCompare>()
  const success: EtcdRequest[] = []
  const spans: Span[] = []
  for (const { request, step } of requests) {
    const { request_txn } = request
    const isMerged = step.likely === true && request_txn !== undefined
    const from = success.length
    if (isMerged) {
      for (const condition of request_txn.compare ?? []) conditions.add(condition)
      for (const one of request_txn.success ?? []) success.push(one)
    } else success.push(request)
    spans.push({ from, count: success.length - from, isMerged })
  }
  const compare = [...conditions]
  if (check !== undefined) {
    compare.push(...check.compare)
    success.push(...check.success)
  }
  return {
    txn: { compare, success, failure: check?.failure ?? [] },
    onlyRenewals: success.every(({ request_put }) => request_put?.ignore_value === true),
    checkIn: ({ succeeded, responses }) => (succeeded ? undefined : responses),
    answersIn({ succeeded, responses }) {
      if (!succeeded) return undefined
      return spans.map(({ from, count, isMerged }) => {
        if (!isMerged) return responses[from] as EtcdAnswer
        return count === 1 ? done : inside({ succeeded: true, responses: responses.slice(from, from + count) })
      })
    },
  }
}

/** The answer as if its transaction had been one inside another. */
function inside(answer: EtcdAnswer['response_txn']): EtcdAnswer {
  const part: Partial<EtcdAnswer> = { response_txn: answer }
  return part as EtcdAnswer
}
