/** What the tests of this package share: clients that are closed, and short words for operations. */
import type { Call, ClaimOp, ExpireOp, ExtendOp, Holding, Op, PinOp, ReleaseOp, Verdict } from 'lease-core'
import { EtcdSubstrate, failFast, type EtcdSubstrateOptions } from 'lease-etcd'
import { Etcd3, type IOptions } from 'etcd3'

export interface Setting extends AsyncDisposable {
  readonly etcd: Etcd3
  /** A substrate over `etcd` that is closed in the end. */
  substrate(options?: Partial<EtcdSubstrateOptions>): EtcdSubstrate
  /** A further driver, closed in the end. */
  newEtcd(options?: Partial<IOptions>): Etcd3
}

export function openSetting({ endpoints }: { readonly endpoints: readonly string[] }): Setting {
  const drivers: Etcd3[] = []
  const substrates: EtcdSubstrate[] = []
  const newEtcd = (options?: Partial<IOptions>): Etcd3 => {
    const driver = new Etcd3({ hosts: [...endpoints], ...failFast(), ...options })
    drivers.push(driver)
    return driver
  }
  const etcd = newEtcd()
  return {
    etcd,
    newEtcd,
    substrate(options) {
      const substrate = new EtcdSubstrate({ etcd, namespace: unique('ns'), ...options })
      substrates.push(substrate)
      return substrate
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(substrates.map((substrate) => substrate.close()))
      for (const driver of drivers) driver.close()
    },
  }
}

let count = 0

/** A name that no other test uses. */
export function unique(word: string): string {
  return `${word}-${process.pid}-${++count}`
}

export function newCall(signal: AbortSignal = new AbortController().signal, timeoutMs = 5_000): Call {
  return { signal, timeoutMs }
}

export function claim(lease: string, holder: string, durationMs: number, more: Partial<ClaimOp> = {}): ClaimOp {
  return {
    kind: 'claim',
    lease,
    holder,
    durationMs,
    nonce: unique('nonce'),
    value: undefined,
    lapsed: undefined,
    ...more,
  }
}

export function extend(lease: string, holder: string, durationMs: number, more: Partial<ExtendOp> = {}): ExtendOp {
  return {
    kind: 'extend',
    lease,
    holder,
    durationMs,
    fencingToken: undefined,
    value: undefined,
    seen: undefined,
    ...more,
  }
}

export function release(lease: string, holder: string, more: Partial<ReleaseOp> = {}): ReleaseOp {
  return { kind: 'release', lease, holder, fencingToken: undefined, nonce: undefined, ...more }
}

export function expire(lease: string, lapsed: string | undefined): ExpireOp {
  return { kind: 'expire', lease, lapsed }
}

export function pin(lease: string, entity: string): PinOp {
  return { kind: 'pin', lease, entity }
}

export function unpin(lease: string, entity: string): PinOp {
  return { kind: 'unpin', lease, entity }
}

/** The verdict of one operation; `contended` is asked again, as core does. */
export async function settle(substrate: EtcdSubstrate, op: Op): Promise<Verdict> {
  for (;;) {
    const [verdict] = await substrate.apply([op], newCall())
    if (verdict === undefined) throw new Error('no verdict')
    if (verdict.outcome === 'unknown') throw verdict.cause
    if (verdict.outcome !== 'contended') return verdict
    await sleep(1 + Math.random() * 5)
  }
}

/** The holding that this granted operation left. */
export async function grant(substrate: EtcdSubstrate, op: Op): Promise<Holding> {
  const { outcome, holding } = await settle(substrate, op)
  if (outcome !== 'granted' || holding === undefined) throw new Error(`${op.kind} ${op.lease} was ${outcome}`)
  return holding
}

export async function readOne(substrate: EtcdSubstrate, lease: string): Promise<Holding | undefined> {
  return (await substrate.read([lease], newCall())).get(lease)
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** Resolves once the condition holds. @throws after `patienceMs`, or what the condition throws */
export async function eventually(condition: () => boolean | Promise<boolean>, patienceMs = 8_000): Promise<void> {
  for (const deadline = Date.now() + patienceMs; !(await condition());) {
    if (Date.now() > deadline) throw new Error('it never came true')
    await sleep(5)
  }
}
