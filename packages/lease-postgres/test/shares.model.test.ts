/** Shares in PostgreSQL and in memory, side by side. */
import { sharesLikeMemory } from 'lease-scenes'
import { enoughOf, postgresTargets } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'

for (const target of enoughOf(postgresTargets())) {
  describe(`shares, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    sharesLikeMemory(() => setting.substrate())
  })
}
