/** The library's own transactions, sent by hand: one lease at a time, or many. */
import { randomUUID } from 'node:crypto'
import type { Etcd3 } from 'etcd3'
import { EtcdSubstrate, type EtcdDriver, type EtcdTxn } from 'lease-etcd'
import type { Adapter } from '../../bench.ts'
import { batches, batchName, inBatches, LONG_MS, oneByOne, type ByHand } from '../by-hand.ts'
import { openEtcdToFailFast } from './connection.ts'
import { record, specimen, type Kind, type Recorded } from '../recorded.ts'

/** One transaction per claim. */
export const etcdTransaction: Adapter = {
  name: 'transaction',
  role: 'raw',
  about: `the library's transactions by hand, one per claim`,
  can: ['one'],
  open: async ({ url }) => oneByOne(await byHand(url)),
}

/** One transaction for the claims of as many callers as the library would put into it. */
export function etcdTransactionBatch({ inFlight }: { readonly inFlight: number }): Adapter {
  return {
    name: batchName('transaction', inFlight),
    ...(inFlight > 1 && { isDetail: true as const }),
    role: 'raw',
    about: `the library's transactions by hand, ${batches(inFlight)}`,
    can: ['many'],
    open: async ({ url }) => inBatches(await byHand(url), inFlight),
  }
}

/** What stands in a request for the lease that it is about. */
interface Term {
  readonly lease: string
  readonly nonce: string
  fencingToken: string
  version: string
}

async function byHand(url: string): Promise<ByHand> {
  const etcd = openEtcdToFailFast(url)
  let atMost = 0
  const templates = await record<EtcdTxn>((sent) => {
    const substrate = new EtcdSubstrate({ etcd: recording(etcd, sent), namespace: randomUUID(), watch: false })
    atMost = substrate.limits.maxOps
    return substrate
  }, LONG_MS)
  const fill = { claim: filler(templates.claim), extend: filler(templates.extend), release: filler(templates.release) }
  const terms = new Map<string, Term>()
  let nonces = 0
  const send = async (kind: Kind, leases: readonly string[]): Promise<void> => {
    const about = leases.map((lease): Term => {
      if (kind === 'claim') return { lease, nonce: `n${nonces++}`, fencingToken: '', version: '' }
      const term = terms.get(lease)
      if (term === undefined) throw new Error(`${kind} of ${lease}: it was never claimed`)
      return term
    })
    const { responses, succeeded, header } = await etcd.kv.txn(together(kind, about.map(fill[kind])))
    about.forEach((term, index) => {
      const granted = succeeded && (kind !== 'claim' || about.length === 1 || responses[index]?.response_txn?.succeeded)
      if (granted !== true) throw new Error(`${kind} of ${term.lease}: not granted`)
      if (kind === 'claim') term.fencingToken = header.revision
      term.version = header.revision
      terms.set(term.lease, term)
    })
  }
  return {
    atMost,
    claim: (leases) => send('claim', leases),
    extend: (leases) => send('extend', leases),
    release: (leases) => send('release', leases),
    close: async () => etcd.close(),
  }
}

/** As the library sends them: a claim may well be refused and must not take others with it. */
function together(kind: Kind, txns: readonly EtcdTxn[]): EtcdTxn {
  const [first] = txns
  if (first !== undefined && txns.length === 1) return first
  if (kind === 'claim') return { compare: [], success: txns.map((txn) => ({ request_txn: txn })), failure: [] }
  return {
    compare: txns.flatMap(({ compare }) => compare ?? []),
    success: txns.flatMap(({ success }) => success ?? []),
    failure: [],
  }
}

/** Makes the recorded request one about another lease. */
function filler({ request, fencingToken, version }: Recorded<EtcdTxn>): (term: Term) => EtcdTxn {
  const fill = fillerOf(request, { fencingToken, version })
  return (term) => fill(term) as EtcdTxn
}

type Fill = (term: Term) => unknown

/** Each place of the template is looked at once; what has nothing to do with the lease stays as it is. */
function fillerOf(template: unknown, known: { readonly fencingToken: string; readonly version: string }): Fill {
  if (Buffer.isBuffer(template)) {
    const text = template.toString()
    if (!text.includes(specimen.lease) && !text.includes(specimen.nonce)) return () => template
    return ({ lease, nonce }) => Buffer.from(text.replace(specimen.lease, lease).replace(specimen.nonce, nonce))
  }
  if (typeof template === 'string' && template !== '') {
    if (template === known.version) return ({ version }) => version
    if (template === known.fencingToken) return ({ fencingToken }) => fencingToken
  }
  if (Array.isArray(template)) {
    const fills = template.map((item) => fillerOf(item, known))
    return (term) => fills.map((fill) => fill(term))
  }
  if (typeof template === 'object' && template !== null) {
    const fills = Object.entries(template).map(([name, item]) => [name, fillerOf(item, known)] as const)
    return (term) => {
      const filled: Record<string, unknown> = {}
      for (const [name, fill] of fills) filled[name] = fill(term)
      return filled
    }
  }
  return () => template
}

/** A driver that puts the transactions it sends into the list. */
function recording(etcd: Etcd3, sent: EtcdTxn[]): EtcdDriver {
  const driver: EtcdDriver = etcd
  const { options } = etcd as unknown as { readonly options: unknown }
  const recorded: EtcdDriver & { readonly options: unknown } = {
    prefix: driver.prefix,
    // Without `leaseRevoke`: what is recorded names an etcd lease that must stay.
    leaseClient: { leaseGrant: (...request) => driver.leaseClient.leaseGrant(...request) },
    watchClient: driver.watchClient,
    maintenance: driver.maintenance,
    options, // by which the adapter sees that no call is repeated
    kv: new KVClient(driver, sent),
  }
  return recorded
}

/** Named as the driver's own, which it stands for: a wrapper might repeat calls, and this one does not. */
class KVClient {
  readonly #driver: EtcdDriver
  readonly #sent: EtcdTxn[]

  constructor(driver: EtcdDriver, sent: EtcdTxn[]) {
    this.#driver = driver
    this.#sent = sent
  }

  range(...request: Parameters<EtcdDriver['kv']['range']>): ReturnType<EtcdDriver['kv']['range']> {
    return this.#driver.kv.range(...request)
  }

  txn(...request: Parameters<EtcdDriver['kv']['txn']>): ReturnType<EtcdDriver['kv']['txn']> {
    this.#sent.push(request[0])
    return this.#driver.kv.txn(...request)
  }
}
