/** A grant of a share is one transaction, which fails where anything has changed since it was decided. What is decided: core's tests. */
import { expect } from 'chai'
import type { Substrate, Verdict } from 'lease-core/adapter'
import { claim, newCall, release, settle, unique } from 'lease-scenes'
import { dynamodbTarget } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'
import { Wire } from './wire.ts'

const target = dynamodbTarget()

describe(`shares, on ${target.name}`, () => {
  let setting: Setting
  before(async () => {
    setting = await openSetting(target)
  })
  after(() => setting[Symbol.asyncDispose]())

  /** Takes two of four. */
  const take = (to: Substrate, holder: string): Promise<Verdict> => {
    const share = { weight: 2, capacity: 4, passing: 0, lapsed: new Map<string, string>() }
    return settle(to, claim(`l#${holder}`, holder, 60_000, { share }))
  }

  it('are counted anew where another grant came between the reads', async () => {
    const namespace = unique('ns')
    const client = setting.newClient()
    const wire = new Wire(client)
    const substrate = setting.substrate({ client, namespace })
    const other = setting.substrate({ namespace })
    await take(substrate, 'a')
    // Between its look at the shares and its grant another process takes what is left.
    wire.plan(/TransactWriteItems/, async (send) => {
      await take(other, 'b')
      return send()
    })
    expect((await take(substrate, 'c')).outcome).to.equal('refused')
    expect(wire.isThrough).to.equal(true)
    // And between the read of the counted lease and that of its shares, by a process that knows nothing yet.
    await settle(other, release('l#b', 'b'))
    const fresh = setting.newClient()
    const way = new Wire(fresh)
    way.plan(/Query/, async (send) => {
      const answer = await send()
      await take(other, 'd')
      return answer
    })
    expect((await take(setting.substrate({ client: fresh, namespace }), 'e')).outcome).to.equal('refused')
    expect(way.isThrough).to.equal(true)
    expect([...(await other.counted('l#', newCall())).shares.keys()]).to.deep.equal(['l#a', 'l#d'])
  })
})
