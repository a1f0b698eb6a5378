/** Shares in Redis and in memory, side by side. */
import { sharesLikeMemory } from 'lease-scenes'
import { redisTargets } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'

for (const target of redisTargets('server')) {
  describe(`shares, on ${target.name}`, () => {
    let setting: Setting
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())

    sharesLikeMemory(() => setting.substrate())
  })
}
