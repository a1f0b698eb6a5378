/** What applications see of wall clocks that read differently. */
import { postgresClient } from 'lease-postgres'
import { yearsApart } from 'lease-scenes'
import { enoughOf, postgresTargets } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'

for (const target of enoughOf(postgresTargets())) {
  describe(`wall clocks, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    yearsApart((namespace, clock) => postgresClient({ pool: setting.newPool(), namespace, clock }))
  })
}
