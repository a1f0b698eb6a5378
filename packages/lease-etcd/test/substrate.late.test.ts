/** Requests that are executed late, twice or in another order: what they would open, change or end stays as it is. */
import { expect } from 'chai'
import { CLIENT_LENGTH, type Call, type Op, type Verdict } from 'lease-core/adapter'
import { etcdTargets } from 'lease-servers'
import type { EtcdDriver, EtcdSubstrate, EtcdTxn, EtcdTxnAnswer } from 'lease-etcd'
import { GRPCUnavailableError } from 'etcd3'
import { claim, expire, extend, grant, newCall, noneUnheard, pin, readOne, release, unique, unpin } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

/** Decides when a transaction is executed, how often, and what its sender learns. */
type Way = (txn: EtcdTxn, execute: () => Promise<EtcdTxnAnswer>) => Promise<EtcdTxnAnswer>

const straight: Way = (_txn, execute) => execute()

/** Whether it may create the key of a lease or of a counted lease, or set a pin. */
function opensSomething(txn: EtcdTxn): boolean {
  const written = (one: EtcdTxn): string[] =>
    (one.success ?? []).flatMap(({ request_put, request_txn }) => [
      ...(request_put?.value === undefined || request_put.value.length === 0 ? [] : [String(request_put.key)]),
      ...(request_txn === undefined ? [] : written(request_txn)),
    ])
  return written(txn).some((key) => /\/[lpg]\/[^/]*$/.test(key))
}

for (const target of etcdTargets(1)) {
  describe(`requests that come late, on ${target.name}`, () => {
    let setting: Setting
    let namespace: string
    let client: string
    /** How the transactions of `substrate` go. */
    let way: Way
    let substrate: EtcdSubstrate
    /** Looks at the same namespace, and is another client. */
    let other: EtcdSubstrate
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => {
      namespace = unique('ns')
      client = unique('').padStart(CLIENT_LENGTH, 'c').slice(-CLIENT_LENGTH)
      way = straight
      const { kv, prefix, leaseClient, watchClient, maintenance }: EtcdDriver = setting.etcd
      substrate = setting.substrate({
        namespace,
        etcd: {
          prefix,
          leaseClient,
          watchClient,
          maintenance,
          kv: {
            range: (range, options) => kv.range(range, options),
            txn: (txn, options) => way(txn, () => kv.txn(txn, options)),
          },
        },
      })
      other = setting.substrate({ namespace })
    })

    const call = (epoch: number, more: Partial<Call> = {}): Call =>
      newCall({ client, epoch, timeoutMs: 60_000, ...more })
    const send = async (op: Op, epoch: number = 0, by: EtcdSubstrate = substrate): Promise<Verdict> =>
      (await by.apply([op], call(epoch)))[0] ?? expect.fail()
    const outcomeOf = async (op: Op, epoch: number = 0, by?: EtcdSubstrate): Promise<string> =>
      (await send(op, epoch, by)).outcome
    const execute = (txn: EtcdTxn): Promise<unknown> => setting.etcd.kv.txn(txn)
    const valueOf = async (key: string) => (await setting.etcd.get(`lease/${namespace}/${key}`).exec()).kvs[0]

    /** Each way to open a term or to set a pin: how it is asked for, whether it is there, and how it ends. */
    interface Opening {
      /** What is answered to one who asks again when it is over. */
      readonly afterEnd?: 'late'
      readonly ask: (epoch: number) => Promise<string>
      readonly isThere: () => Promise<boolean>
      readonly end: (epoch: number) => Promise<string>
    }
    const openings: Record<string, () => Promise<Opening>> = {
      'a claim': async () => claiming(claim('l', 'a', 60_000)),
      'an announced claim': async () => claiming(claim('l', 'a', 60_000, { announce: true })),
      'a claim without a place in the queue': async () => claiming(claim('l', 'a', 60_000, { place: 0 })),
      'a claim in the queue': async () => {
        await grant(other, claim('l', 'b', 60_000))
        const { ticket } = await send(claim('l', 'a', 60_000, { place: 0 }))
        await send(release('l', 'b', { nonce: (await readOne(other, 'l'))?.nonce }), 0, other)
        return claiming(claim('l', 'a', 60_000, { place: ticket?.place ?? expect.fail() }))
      },
      'a claim of what is pinned': async () => {
        await send(pin('l', 'e'), 0, other)
        return claiming(claim('l', 'a', 60_000))
      },
      'a takeover': async () => {
        const { version: lapsed } = await grant(other, claim('l', 'b', 60_000))
        return claiming(claim('l', 'a', 60_000, { lapsed }))
      },
      'the first claim of a share': async () => sharing(claim('n#a', 'a', 60_000, { share: share(1) })),
      'a claim of a share': async () => {
        await grant(other, claim('n#b', 'b', 60_000, { share: share(2) }))
        return sharing(claim('n#a', 'a', 60_000, { share: share(2) }))
      },
      'a claim of a share in the queue': async () => {
        await grant(other, claim('n#b', 'b', 60_000, { share: share(1) }))
        const { ticket } = await send(claim('n#a', 'a', 60_000, { share: share(1), place: 0 }))
        await send(release('n#b', 'b', { nonce: (await readOne(other, 'n#b'))?.nonce }), 0, other)
        const place = ticket?.place ?? expect.fail()
        return sharing(claim('n#a', 'a', 60_000, { share: share(1), place }))
      },
      'a claim of a share in the place of one that has lapsed': async () => {
        const { version = '' } = await grant(other, claim('n#b', 'b', 60_000, { share: share(1) }))
        return sharing(claim('n#a', 'a', 60_000, { share: { ...share(1), lapsed: new Map([['n#b', version]]) } }))
      },
      'a definition': async () => {
        const generation = unique('generation')
        const op = { kind: 'define', lease: 'n#', capacity: 3, from: undefined, generation } as const
        return {
          afterEnd: 'late',
          ask: (epoch) => outcomeOf(op, epoch),
          isThere: async () => (await other.counted('n#', newCall())).capacity !== undefined,
          end: async (epoch) => {
            const end = { ...op, capacity: undefined, from: generation, generation: unique('generation') }
            const { outcome, counted } = await send(end, epoch)
            return counted?.capacity === undefined ? 'granted' : outcome
          },
        }
      },
      'a pin': async () => {
        const op = pin('l', 'e')
        return {
          ask: (epoch) => outcomeOf(op, epoch),
          isThere: async () => (await other.pinned(newCall(), ['l'])).has('l'),
          end: (epoch) => outcomeOf(unpin('l', 'e', op.generation), epoch),
        }
      },
    }
    const share = (capacity: number) => ({ weight: 1, capacity, passing: 0, lapsed: new Map<string, string>() })
    const sharing = (op: Op & { readonly kind: 'claim' }): Opening => ({
      ask: (epoch) => outcomeOf(op, epoch),
      isThere: async () => (await readOne(other, 'n#a')) !== undefined,
      end: (epoch) => outcomeOf(release('n#a', 'a', { nonce: op.nonce }), epoch),
    })
    const claiming = (op: Op & { readonly kind: 'claim' }): Opening => ({
      ask: (epoch) => outcomeOf(op, epoch),
      isThere: async () => (await readOne(other, 'l')) !== undefined,
      end: (epoch) => outcomeOf(release('l', 'a', { nonce: op.nonce }), epoch),
    })

    for (const [what, prepare] of Object.entries(openings)) {
      describe(what, () => {
        let opening: Opening
        beforeEach(async () => (opening = await prepare()))

        it('opens nothing when the driver repeats it after its end', async () => {
          const sent: EtcdTxn[] = []
          way = (txn, go) => {
            sent.push(txn)
            return go()
          }
          expect(await opening.ask(0)).to.equal('granted')
          way = straight
          expect(await opening.end(0)).to.equal('granted')
          expect(sent.some(opensSomething)).to.equal(true)
          for (const txn of sent) await execute(txn)
          expect(await opening.isThere()).to.equal(false)
          expect(await opening.ask(0)).to.equal(opening.afterEnd ?? 'granted')
        })

        it('opens one term when the driver repeats it at once, and the first answer is lost', async () => {
          let copies = 0
          way = async (txn, go) => {
            if (opensSomething(txn) && ++copies === 1) await go()
            return go()
          }
          expect(await opening.ask(0)).to.equal('granted')
          expect(await opening.isThere()).to.equal(true)
          way = straight
          expect(await opening.end(0)).to.equal('granted')
          expect(await opening.isThere()).to.equal(false)
        })

        for (const epoch of [0, 1]) {
          const before = epoch === 0 ? 'before which nothing was lost' : 'after an earlier loss'
          it(`opens nothing when it arrives after it was given up, ${before}, and undone in a later epoch`, async () => {
            if (epoch > 0) await send(claim('known', 'a', 60_000), epoch) // the store has seen this epoch
            const held = new Promise<EtcdTxn>((arrived) => {
              way = (txn, go) => {
                if (!opensSomething(txn)) return go()
                arrived(txn)
                return Promise.reject(new Error('no answer in time'))
              }
            })
            const [outcome, txn] = await Promise.all([opening.ask(epoch).catch(() => 'unknown'), held])
            expect(outcome).to.equal('unknown')
            way = straight
            expect(await opening.end(epoch + 1)).to.equal('granted')
            await execute(txn)
            expect(await opening.isThere()).to.equal(false)
            expect(await opening.ask(epoch + 1)).to.equal('granted')
          })
        }

        it('opens nothing when the first copy arrives after it was sent again, granted and ended', async () => {
          const copies: EtcdTxn[] = []
          way = (txn, go) => {
            if (!opensSomething(txn)) return go()
            copies.push(txn)
            if (copies.length === 1) return Promise.reject(new GRPCUnavailableError('14 UNAVAILABLE: read ECONNRESET'))
            return go()
          }
          expect(await opening.ask(0)).to.equal('granted')
          way = straight
          expect(copies.length).to.be.greaterThan(1)
          expect(await opening.end(0)).to.equal('granted')
          for (const txn of copies) await execute(txn)
          expect(await opening.isThere()).to.equal(false)
        })

        it('finds its own term when the first copy was executed and its answer was lost', async () => {
          let first = true
          way = async (txn, go) => {
            const answer = await go()
            if (!first || !opensSomething(txn)) return answer
            first = false
            throw new GRPCUnavailableError('14 UNAVAILABLE: read ECONNRESET')
          }
          expect(await opening.ask(0)).to.equal('granted')
          expect(first).to.equal(false)
          expect(await opening.isThere()).to.equal(true)
        })

        it('is late where the store has seen a later epoch of the client, known here or not', async () => {
          const elsewhere = setting.substrate({ namespace })
          expect(await outcomeOf(claim('x', 'a', 60_000), 3, elsewhere)).to.equal('granted')
          expect(await opening.ask(2)).to.equal('late')
          let sent = 0
          way = (txn, go) => {
            if (opensSomething(txn)) sent++
            return go()
          }
          expect(await opening.ask(2)).to.equal('late')
          expect(sent).to.equal(0)
          expect(await opening.isThere()).to.equal(false)
          expect(await opening.ask(3)).to.equal('granted')
        })

        it('is unknown where its epoch ends between two copies of it', async () => {
          const elsewhere = setting.substrate({ namespace })
          way = async (txn, go) => {
            if (!opensSomething(txn)) return go()
            way = straight
            await outcomeOf(claim('x', 'a', 60_000), 1, elsewhere)
            throw new GRPCUnavailableError('14 UNAVAILABLE: read ECONNRESET')
          }
          expect(await opening.ask(0).catch(() => 'unknown')).to.equal('unknown')
        })
      })
    }

    describe('epochs', () => {
      const epochKey = () => valueOf(`e/${client}`)

      it('write nothing before the first loss, and add no request', async () => {
        const txns: EtcdTxn[] = []
        const etcd = setting.newEtcd({
          defaultCallOptions: (context) => {
            const { method, params } = context as typeof context & { readonly params: unknown }
            if (method === 'txn') txns.push(params as EtcdTxn)
            return {}
          },
        })
        const by = setting.substrate({ namespace, etcd })
        await by.read(['l'], call(0))
        txns.length = 0
        const seen = (await send(claim('l', 'a', 60_000, { nonce: `${client}-1` }), 0, by)).holding
        const { fencingToken, nonce } = seen ?? expect.fail()
        expect(await outcomeOf(release('l', 'a', { fencingToken, nonce, seen }), 0, by)).to.equal('granted')
        expect(txns).to.have.lengthOf(2)
        const written = txns.flatMap(({ success = [] }) => success.map(({ request_put }) => String(request_put?.key)))
        expect(written).to.deep.equal([`lease/${namespace}/l/l`, 'undefined'])
        const { kvs } = await setting.etcd.getAll().prefix(`lease/${namespace}/`).exec()
        expect(kvs.map(({ key }) => String(key))).to.deep.equal([`lease/${namespace}/v`])
      })

      it('are put by the first requests of a later one themselves, on an etcd lease of an hour', async () => {
        await grant(substrate, claim('l', 'a', 60_000))
        await send(claim('other', 'a', 60_000), 1) // asks for the etcd lease
        const txns: EtcdTxn[] = []
        way = (txn, go) => {
          txns.push(txn)
          return go()
        }
        const ops = Array.from({ length: 8 }, (_, index) => claim(`l${index}`, 'a', 60_000))
        const outcomes = await Promise.all(ops.map((op) => outcomeOf(op, 2)))
        expect(new Set(outcomes)).to.deep.equal(new Set(['granted']))
        expect(txns).to.have.lengthOf(8)
        const kv = (await epochKey()) ?? expect.fail()
        expect(String(kv.value)).to.equal('0000000000000002.00000000')
        const { grantedTTL } = await setting.etcd.leaseClient.leaseTimeToLive({ ID: kv.lease })
        expect(Number(grantedTTL)).to.be.at.least(3_600)
        await send(claim('last', 'a', 60_000), 2)
        expect((await epochKey())?.mod_revision).to.equal(kv.mod_revision)
      })

      it('are seen by the store with whatever else is asked of it, also what is refused', async () => {
        const { fencingToken, nonce } = await grant(substrate, claim('held', 'a', 60_000))
        const ops: Op[] = [
          claim('held', 'b', 60_000),
          release('l', 'a', { nonce: 'n' }),
          release('held', 'a', { fencingToken: fencingToken + 1n, nonce }),
          extend('held', 'a', 60_000, { fencingToken: fencingToken + 1n }),
          extend('held', 'a', 60_000, { fencingToken }),
          unpin('l', 'e', 'g'),
          pin('l', 'e', 'g'),
          expire('held'),
        ]
        for (const [index, op] of ops.entries()) {
          await send(op, index + 1)
          expect(Number.parseInt(String((await epochKey())?.value), 10), op.kind).to.equal(index + 1)
        }
        await send(release('held', 'a', { fencingToken }))
      })

      it('delay no renewal, and no release of a term as it was seen: these go without', async () => {
        const names = ['x', 'y', 'z']
        const seen = await Promise.all(names.map((name) => grant(substrate, claim(name, 'a', 60_000))))
        const txns: EtcdTxn[] = []
        way = (txn, go) => {
          txns.push(txn)
          return go()
        }
        const verdicts = await substrate.apply(
          names.map((name, index) => extend(name, 'a', 60_000, { seen: seen[index] })),
          call(1),
        )
        const held = verdicts[0]?.holding ?? expect.fail()
        const { fencingToken, nonce } = held
        expect(await outcomeOf(release('x', 'a', { fencingToken, nonce, seen: held }), 1)).to.equal('granted')
        expect(txns).to.have.lengthOf(2)
        expect(await epochKey()).to.equal(undefined)
      })

      it('leave extensions, releases and unpins of an earlier one alone', async () => {
        const held = await grant(substrate, claim('l', 'a', 60_000))
        await send(pin('l', 'e', 'g'))
        await send(claim('x', 'a', 60_000), 5)
        const { fencingToken, nonce } = held
        expect(await outcomeOf(extend('l', 'a', 60_000, { fencingToken }), 4)).to.equal('granted')
        expect(await outcomeOf(unpin('l', 'e', 'g'), 4)).to.equal('granted')
        const batch = [claim('y', 'a', 60_000), release('l', 'a', { fencingToken, nonce })]
        const verdicts = await substrate.apply(batch, call(4))
        expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(['late', 'granted'])
      })

      it('are put again when their key is gone, and what was sent under it opens nothing', async () => {
        let lost: EtcdTxn | undefined
        way = (txn, go) => {
          if (!opensSomething(txn)) return go()
          lost = txn
          return Promise.reject(new Error('no answer in time'))
        }
        expect(await outcomeOf(claim('l', 'a', 60_000), 1)).to.equal('unknown')
        way = straight
        await setting.etcd.delete().key(`lease/${namespace}/e/${client}`).exec()
        expect(await outcomeOf(claim('m', 'a', 60_000), 1)).to.equal('granted')
        expect(String((await epochKey())?.value)).to.equal('0000000000000001.00000000')
        await execute(lost ?? expect.fail())
        expect(await readOne(other, 'l')).to.equal(undefined)
      })

      it('are seen also where a renewal of the batch was lost, and each operation has its own verdict', async () => {
        const seen = await Promise.all(['x', 'y'].map((name) => grant(substrate, claim(name, 'a', 60_000))))
        await grant(other, claim('y', 'b', 60_000, { lapsed: seen[1]?.version }))
        const batch = [
          extend('x', 'a', 60_000, { seen: seen[0] }),
          extend('y', 'a', 60_000, { seen: seen[1] }),
          claim('z', 'a', 60_000),
        ]
        const verdicts = await substrate.apply(batch, call(1))
        expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(['granted', 'refused', 'granted'])
        expect(await outcomeOf(claim('l', 'a', 60_000), 0)).to.equal('late')
      })

      it('keep what came late from opening also after another has held the lease', async () => {
        let lost: EtcdTxn | undefined
        way = (txn, go) => {
          if (!opensSomething(txn)) return go()
          lost = txn
          return Promise.reject(new Error('no answer in time'))
        }
        const op = claim('l', 'a', 60_000)
        expect(await outcomeOf(op, 0)).to.equal('unknown')
        way = straight
        const { nonce } = await grant(other, claim('l', 'b', 60_000))
        expect(await outcomeOf(op, 1)).to.equal('refused')
        await send(release('l', 'b', { nonce }), 0, other)
        await execute(lost ?? expect.fail())
        expect(await readOne(other, 'l')).to.equal(undefined)
      })
    })

    describe('a release', () => {
      it('does not end a term that was adopted after it was sent', async () => {
        const seen = await grant(substrate, claim('l', 'a', 60_000))
        const { fencingToken, nonce } = seen
        const releases = [
          release('l', 'a', { fencingToken, nonce, seen }),
          release('l', 'a', { fencingToken, nonce }),
          release('l', 'a', { nonce }),
        ]
        const adopted = await grant(
          other,
          extend('l', 'a', 60_000, { seen, adoption: { from: nonce, nonce: 'adopter' } }),
        )
        expect(adopted).to.include({ fencingToken, nonce: 'adopter' })
        for (const op of releases) {
          expect(await send(op)).to.deep.equal({ outcome: 'refused', holding: adopted, cause: undefined })
        }
        expect(await readOne(other, 'l')).to.deep.equal(adopted)
      })

      it('that has read the term does not end it when it is adopted before the removal', async () => {
        const { fencingToken, nonce } = await grant(substrate, claim('l', 'a', 60_000))
        let steps = 0
        way = async (_txn, go) => {
          if (++steps === 2) {
            const adoption = { from: nonce, nonce: 'adopter' }
            await grant(other, extend('l', 'a', 60_000, { fencingToken, adoption }))
          }
          return go()
        }
        const { outcome, holding } = await send(release('l', 'a', { fencingToken, nonce }))
        expect(steps).to.be.at.least(2)
        expect(outcome).to.equal('refused')
        expect(holding).to.include({ fencingToken, nonce: 'adopter' })
        expect(await readOne(other, 'l')).to.deep.equal(holding)
      })

      it('ends its term although it was renewed meanwhile', async () => {
        const seen = await grant(substrate, claim('l', 'a', 60_000))
        const { fencingToken, nonce } = seen
        await grant(substrate, extend('l', 'a', 60_000, { seen }))
        expect(await outcomeOf(release('l', 'a', { fencingToken, nonce, seen }))).to.equal('granted')
        expect(await readOne(other, 'l')).to.equal(undefined)
      })

      it('whose copy arrives late does not end the next term of the same holder', async () => {
        for (const naming of ['term', 'both', 'nonce', 'seen'] as const) {
          const seen = await grant(substrate, claim('l', 'a', 60_000))
          const { fencingToken, nonce } = seen
          const sent: EtcdTxn[] = []
          way = (txn, go) => {
            sent.push(txn)
            return go()
          }
          const named = {
            term: { fencingToken },
            both: { fencingToken, nonce },
            nonce: { nonce },
            seen: { fencingToken, nonce, seen },
          }
          expect(await outcomeOf(release('l', 'a', named[naming]))).to.equal('granted')
          way = straight
          const next = await grant(substrate, claim('l', 'a', 60_000))
          for (const txn of sent) await execute(txn)
          expect(await readOne(other, 'l'), naming).to.deep.equal(next)
          await grant(other, claim('l', 'a', 60_000, { lapsed: next.version }))
          await send(release('l', 'a', { nonce: (await readOne(other, 'l'))?.nonce }))
        }
      })
    })

    describe('an extension', () => {
      it('adopts by one write without a read where the term is as it was seen, and by its nonce else', async () => {
        const seen = await grant(substrate, claim('l', 'a', 60_000, { value: 'v' }))
        const txns: EtcdTxn[] = []
        way = (txn, go) => {
          txns.push(txn)
          return go()
        }
        const first = { from: seen.nonce, nonce: 'second' }
        const adopted = await grant(substrate, extend('l', 'a', 1_000, { seen, adoption: first }))
        expect(txns).to.have.lengthOf(1)
        expect(adopted).to.deep.equal({ ...seen, nonce: 'second', version: adopted.version })
        expect(await readOne(other, 'l')).to.deep.equal(adopted)
        const { fencingToken } = seen
        // Sent again after a lost answer it finds its own nonce; a later one is refused by it.
        expect(await grant(substrate, extend('l', 'a', 1_000, { seen, adoption: first }))).to.include({
          nonce: 'second',
        })
        const stale = extend('l', 'a', 1_000, { fencingToken, adoption: { from: seen.nonce, nonce: 'third' } })
        expect(await send(stale)).to.deep.include({ outcome: 'refused', holding: await readOne(other, 'l') })
      })

      it('whose copy arrives late does not give the term back to its former process', async () => {
        const seen = await grant(substrate, claim('l', 'a', 60_000))
        const sent: EtcdTxn[] = []
        way = (txn, go) => {
          sent.push(txn)
          return go()
        }
        await grant(substrate, extend('l', 'a', 60_000, { seen, adoption: { from: seen.nonce, nonce: 'second' } }))
        await grant(substrate, extend('l', 'a', 60_000, { fencingToken: seen.fencingToken }))
        way = straight
        const { fencingToken } = seen
        const last = await grant(
          other,
          extend('l', 'a', 60_000, { fencingToken, adoption: { from: 'second', nonce: 'third' } }),
        )
        for (const txn of sent) await execute(txn)
        expect(await readOne(other, 'l')).to.deep.equal(last)
      })

      it('whose copy arrives late does not bring back a term that is over', async () => {
        const seen = await grant(substrate, claim('l', 'a', 60_000))
        const sent: EtcdTxn[] = []
        way = (txn, go) => {
          sent.push(txn)
          return go()
        }
        await grant(substrate, extend('l', 'a', 90_000, { seen, value: 'v' }))
        await grant(substrate, extend('l', 'a', 60_000, { seen: await readOne(other, 'l') }))
        way = straight
        await send(release('l', 'a', { nonce: seen.nonce }))
        const held = await grant(other, claim('l', 'b', 60_000))
        for (const txn of sent) await execute(txn).catch(() => {})
        expect(await readOne(other, 'l')).to.deep.equal(held)
      })
    })

    describe('a value', () => {
      it('that was given up does not come back after a later one', async () => {
        const seen = await grant(substrate, claim('l', 'a', 60_000, { value: 'first' }))
        const { fencingToken } = seen
        const given = extend('l', 'a', 60_000, { fencingToken, seen, value: 'second' })
        expect(await outcomeOf(given)).to.equal('granted')
        // A resend in the next epoch, the value after it, and then the first packet.
        expect(await outcomeOf(given, 1)).to.equal('granted')
        expect(await outcomeOf(extend('l', 'a', 60_000, { fencingToken, value: 'third' }), 1)).to.equal('granted')
        expect(await readOne(other, 'l')).to.include({ value: 'third' })
        await send(pin('m', 'e'), 1)
        expect(await outcomeOf(given)).to.equal('late')
        expect(await outcomeOf(extend('l', 'a', 60_000, { fencingToken, value: 'second' }))).to.equal('late')
        expect(await readOne(other, 'l')).to.include({ value: 'third' })
      })

      it('whose transaction arrives late again does not come back', async () => {
        const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000, { value: 'first' }))
        const sent: EtcdTxn[] = []
        way = (txn, go) => {
          sent.push(txn)
          return go()
        }
        await grant(substrate, extend('l', 'a', 60_000, { fencingToken, value: 'second' }))
        way = straight
        const last = await grant(substrate, extend('l', 'a', 60_000, { fencingToken, value: 'third' }))
        for (const txn of sent) await execute(txn)
        expect(await readOne(other, 'l')).to.deep.equal(last)
      })

      it('that is sent with renewals delays none of them when it is late', async () => {
        const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000, { value: 'first' }))
        const seen = await grant(substrate, claim('x', 'a', 60_000, { value: 'kept' }))
        await send(claim('m', 'a', 60_000), 1)
        const verdicts = await substrate.apply(
          [
            extend('x', 'a', 60_000, { fencingToken: seen.fencingToken, seen }),
            extend('l', 'a', 60_000, { fencingToken, value: 'second' }),
            extend('m', 'a', 60_000, { fencingToken: (await readOne(other, 'm'))?.fencingToken ?? 0n }),
          ],
          call(0),
        )
        expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(['granted', 'late', 'granted'])
        expect(await readOne(other, 'l')).to.include({ value: 'first' })
      })

      it('of an extension stays as it is where a claim is sent again, also for longer', async () => {
        const op = claim('l', 'a', 60_000, { value: 'first' })
        const { fencingToken } = await grant(substrate, op)
        await grant(substrate, extend('l', 'a', 60_000, { fencingToken, value: 'second' }))
        for (const durationMs of [60_000, 90_000]) {
          expect(await grant(substrate, { ...op, durationMs })).to.include({ fencingToken, value: 'second' })
          expect(await readOne(other, 'l')).to.include({ value: 'second', remainingMs: durationMs })
        }
      })
    })

    it('an expiry and a takeover whose copies arrive late do not end the term after', async () => {
      const sent: EtcdTxn[] = []
      way = (txn, go) => {
        sent.push(txn)
        return go()
      }
      const { version } = await grant(other, claim('l', 'b', 60_000))
      expect(await outcomeOf(expire('l', version))).to.equal('granted')
      const { version: lapsed } = await grant(other, claim('l', 'b', 60_000))
      await grant(substrate, claim('l', 'a', 60_000, { lapsed }))
      way = straight
      await send(release('l', 'a', { fencingToken: (await readOne(other, 'l'))?.fencingToken }))
      const next = await grant(other, claim('l', 'b', 60_000))
      for (const txn of sent) await execute(txn)
      expect(await readOne(other, 'l')).to.deep.equal(next)
    })

    it('an unpin whose copy arrives late does not remove a later pin of the same entity', async () => {
      const sent: EtcdTxn[] = []
      await send(pin('l', 'e', 'first'))
      way = (txn, go) => {
        sent.push(txn)
        return go()
      }
      await send(unpin('l', 'e', 'first'))
      way = straight
      await send(pin('l', 'e', 'second'))
      for (const txn of sent) await execute(txn)
      expect(await outcomeOf(unpin('l', 'e', 'first'))).to.equal('granted')
      expect(await other.pinned(newCall())).to.deep.equal(new Map([['l', new Map([['e', 'second']])]]))
    })

    it('an unpin that has read the pins removes none that was set before its write', async () => {
      await send(pin('l', 'e', 'first'))
      let steps = 0
      way = async (_txn, go) => {
        if (++steps === 2) await send(pin('l', 'e', 'second'), 0, other)
        return go()
      }
      expect(await outcomeOf(unpin('l', 'e', 'first'))).to.equal('granted')
      expect(steps).to.be.at.least(2)
      expect((await other.pinned(newCall())).get('l')).to.deep.equal(new Map([['e', 'second']]))
    })

    /** Takes this step between what the next operation reads and what it writes. */
    const beforeItsWrite = async (step: () => Promise<unknown>): Promise<void> => {
      await send(pin('known', 'e')) // the first operation of all also asks for the layout
      let steps = 0
      way = async (_txn, go) => {
        if (++steps === 2) await step()
        return go()
      }
    }

    it('a pin that has found the lease vacant takes the key off its etcd lease that came before its write', async () => {
      await beforeItsWrite(() => grant(other, claim('l', 'a', 60_000)))
      expect(await send(pin('l', 'e'))).to.have.nested.property('holding.pinned', true)
      expect((await valueOf('l/l'))?.lease).to.equal('0')
    })

    it('the last unpin that has found the lease vacant puts the key on an etcd lease that came before its write', async () => {
      await send(pin('l', 'e', 'first'))
      await beforeItsWrite(() => grant(other, claim('l', 'a', 60_000)))
      expect(await send(unpin('l', 'e', 'first'))).to.have.nested.property('holding.pinned', false)
      expect((await valueOf('l/l'))?.lease).not.to.equal('0')
    })

    it('the last unpin frees a lease as it was seen to lapse, and none that was extended since', async () => {
      const { version: lapsed, fencingToken } = await grant(other, claim('l', 'a', 60_000))
      for (const isExtended of [true, false]) {
        const pinned = await grant(other, pin('l', 'e', 'first'))
        if (isExtended) await grant(other, extend('l', 'a', 90_000, { fencingToken }))
        const seen = isExtended ? (pinned.version ?? lapsed) : (await readOne(other, 'l'))?.version
        await send({ ...unpin('l', 'e', 'first'), lapsed: seen })
        expect((await readOne(other, 'l'))?.holder).to.equal(isExtended ? 'a' : undefined)
      }
    })

    it('a waiting claim whose copy arrives late opens no term and gets into the queue once', async () => {
      await grant(other, claim('l', 'b', 60_000))
      const sent: EtcdTxn[] = []
      way = (txn, go) => {
        sent.push(txn)
        return go()
      }
      await send(claim('l', 'a', 60_000, { place: 0 }))
      way = straight
      await send(release('l', 'b', { nonce: (await readOne(other, 'l'))?.nonce }), 0, other)
      for (const txn of sent) await execute(txn)
      expect(await readOne(other, 'l')).to.equal(undefined)
      expect((await setting.etcd.getAll().prefix(`lease/${namespace}/t/`).exec()).count).to.equal('1')
    })

    it('a copy of a claim that was granted its turn puts no ticket', async () => {
      await grant(other, claim('l', 'b', 60_000))
      const { ticket } = await send(claim('l', 'a', 60_000, { place: 0 }))
      await send(release('l', 'b', { nonce: (await readOne(other, 'l'))?.nonce }), 0, other)
      const sent: EtcdTxn[] = []
      way = (txn, go) => {
        sent.push(txn)
        return go()
      }
      const op = claim('l', 'a', 60_000, { place: ticket?.place ?? expect.fail() })
      const held = await grant(substrate, op)
      for (const txn of sent) await execute(txn)
      expect(await outcomeOf(op, 1)).to.equal('granted') // core has lost the answer
      expect((await setting.etcd.getAll().prefix(`lease/${namespace}/t/`).exec()).count).to.equal('0')
      expect(await readOne(other, 'l')).to.deep.equal(held)
    })

    it('a claim that is late puts no ticket where the client has left', async () => {
      await grant(other, claim('l', 'b', 60_000))
      const sent: EtcdTxn[] = []
      way = (txn, go) => {
        sent.push(txn)
        return go()
      }
      const { ticket } = await send(claim('l', 'a', 60_000, { place: 0 }))
      way = straight
      await send({ kind: 'leave', lease: 'l', place: ticket?.place ?? expect.fail() })
      await send(claim('m', 'a', 60_000), 1) // a later epoch
      for (const txn of sent) await execute(txn)
      expect((await setting.etcd.getAll().prefix(`lease/${namespace}/t/`).exec()).count).to.equal('0')
    })
  })
}
