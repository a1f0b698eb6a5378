import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { expect } from 'chai'
import { etcdTargets } from 'lease-servers'
import type { EtcdTxn, EtcdTxnAnswer } from 'lease-etcd'
import { claim, extend, newCall, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'
import { decoded, encoded } from '#src/renewal-codec.ts'
import { get, isAbsent, isOfTerm, isUnchanged, NO_LEASE, put, touch, when } from '#src/txn.ts'

/** The driver's own ways to bytes and back. */
interface Definition {
  readonly requestSerialize: (txn: EtcdTxn) => Buffer
  readonly requestDeserialize: (bytes: Buffer) => object
  readonly responseSerialize: (answer: object) => Buffer
  readonly responseDeserialize: (bytes: Buffer) => EtcdTxnAnswer
}

function ofDriver(): Definition {
  const path = createRequire(import.meta.url).resolve('etcd3')
  const { loadSync } = createRequire(path)('@grpc/proto-loader') as {
    readonly loadSync: (file: string, options: object) => Record<string, { Txn: Definition }>
  }
  const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true }
  return loadSync(join(dirname(path), '../proto/rpc.proto'), options)['etcdserverpb.KV']?.Txn ?? expect.fail()
}

const keys = [1, 7, 127, 128, 129, 300, 20_000].map((length) => Buffer.alloc(length, 'é'))
const numbers = [1, 127, 128, 16_384, 2 ** 31, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER].map(String)
const leases = [NO_LEASE, '1', '127', '128', '7587862094567890123', String(2n ** 63n - 1n)]

function renewals(terms: readonly (readonly [Buffer, string, string])[]): EtcdTxn {
  return {
    compare: terms.map(([key, version]) => isUnchanged(key, version)),
    success: terms.map(([key, , lease]) => touch(key, lease)),
    failure: [],
  }
}

for (const target of etcdTargets(1)) {
  describe('renewals in bytes', () => {
    let setting: Setting
    const driver = ofDriver()
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    const read = (bytes: Buffer | undefined): object => driver.requestDeserialize(bytes ?? expect.fail())

    it('are what the driver makes of them', () => {
      const all = keys.flatMap((key) =>
        numbers.flatMap((version) => leases.map((lease) => [key, version, lease] as const)),
      )
      for (const some of [...all.map((one) => [one]), all, []]) {
        const txn = renewals(some)
        expect(read(encoded(txn))).to.deep.equal(read(driver.requestSerialize(txn)))
      }
    })

    it('are left to the driver where anything else is among them', () => {
      const key = Buffer.from('k')
      const { compare = [], success = [] } = renewals([[key, '7', '1']])
      for (const txn of [
        { compare, success, failure: [get(key)] },
        { compare: [isAbsent(key)], success, failure: [] },
        { compare: [isOfTerm(key, 7n)], success, failure: [] },
        { compare: [{ ...isUnchanged(key, '7'), result: 1 }], success, failure: [] },
        { compare: [isUnchanged(key, String(2n ** 53n))], success, failure: [] },
        { compare: [isUnchanged(key, '')].slice(1), success, failure: [] },
        { compare, success: [put(key, Buffer.from('v'), '1')], failure: [] },
        { compare, success: [when(compare, success, [])], failure: [] },
      ]) {
        expect(encoded(txn)).to.equal(undefined)
      }
    })

    it('are answered as the driver understands it, or it is asked', () => {
      const header = { cluster_id: String(2n ** 64n - 1n), member_id: '1', raft_term: String(2n ** 63n - 1n) }
      const responses = Array.from({ length: 120 }, () => ({ response_put: { header: { revision: '300' } } }))
      for (const revision of numbers) {
        for (const succeeded of [true, false]) {
          const bytes = driver.responseSerialize({ header: { ...header, revision }, succeeded, responses })
          const usual = driver.responseDeserialize(bytes)
          expect(usual.responses).to.have.lengthOf(120)
          const { header: own, ...rest } = decoded(bytes) ?? expect.fail()
          expect(own.revision).to.equal(usual.header.revision)
          expect(rest).to.deep.equal({ succeeded: usual.succeeded, responses: [] })
          for (const length of [0, 1, 5, 20, bytes.length - 1]) {
            expect(decoded(bytes.subarray(0, length))?.succeeded ?? false).to.equal(false)
          }
        }
      }
      const tooLarge = driver.responseSerialize({ header: { revision: String(2n ** 53n) }, succeeded: true })
      expect(decoded(tooLarge)).to.equal(undefined)
      expect(decoded(Buffer.from([0x22, 0]))).to.equal(undefined)
      expect(decoded(Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x18, 1]))).to.equal(undefined)
      expect(decoded(Buffer.alloc(0))).to.equal(undefined)
    })

    for (const where of ['grpcOptions', 'defaultCallOptions'] as const) {
      it(`are left to the driver where the user has interceptors in ${where}: those see every call`, async () => {
        let calls = 0
        const count = (options: never, next: (options: never) => never): never => {
          calls++
          return next(options)
        }
        const interceptors = { interceptors: [count] }
        const more =
          where === 'grpcOptions' ? { grpcOptions: interceptors } : { defaultCallOptions: () => interceptors }
        const substrate = setting.substrate({ etcd: setting.newEtcd(more as never) })
        const names = [unique('l'), unique('l')]
        const verdicts = await substrate.apply(
          names.map((name) => claim(name, 'a', 60_000)),
          newCall(),
        )
        calls = 0
        const renewed = await substrate.apply(
          names.map((name, index) => extend(name, 'a', 60_000, { seen: verdicts[index]?.holding })),
          newCall(),
        )
        expect(renewed.map(({ outcome }) => outcome)).to.deep.equal(['granted', 'granted'])
        expect(calls).to.equal(1)
      })
    }
  })
}
