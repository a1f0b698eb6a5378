/** What applications see of wall clocks that read differently. */
import { redisClient } from 'lease-redis'
import { yearsApart } from 'lease-scenes'
import { redisTargets } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'

for (const target of redisTargets('server')) {
  describe(`wall clocks, on ${target.name}`, () => {
    let setting: Setting
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())

    yearsApart((namespace, clock) => redisClient({ redis: setting.connect(), namespace, clock }))
  })
}
