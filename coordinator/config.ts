import Type, { type Static } from 'typebox'
import { loadConfigFile } from '../protocol/config-file.ts'

const CoordinatorConfigSchema = Type.Object({
  /** default: as it was called by `coordinator init --name` */
  name: Type.Optional(Type.String({ pattern: '^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$' })),
  stateDir: Type.String({ default: '/var/lib/musubi-coordinator', pattern: '^/' }),
  runDir: Type.String({ default: '/run/musubi-coordinator', pattern: '^/' }),
  listen: Type.Array(Type.String({ pattern: '^/' }), { minItems: 1 }),
  /** what to tell others instead of `listen`, e.g. behind a forwarded port */
  announce: Type.Optional(Type.Array(Type.String({ pattern: '^/' }), { minItems: 1, maxItems: 8 })),
  /** where invited sites join; default: as `listen`, one port higher */
  joinListen: Type.Optional(Type.Array(Type.String({ pattern: '^/' }), { minItems: 1, maxItems: 8 })),
  /** relay for gateways that nobody can reach */
  relay: Type.Boolean({ default: true }),
  http: Type.Object({
    host: Type.String({ default: '127.0.0.1' }), port: Type.Integer({ minimum: 0, maximum: 65535, default: 4180 })
  }, { additionalProperties: false, default: {} }),
  logLevel: Type.Union([Type.Literal('trace'), Type.Literal('debug'), Type.Literal('info'), Type.Literal('warn'), Type.Literal('error')], { default: 'info' })
}, { additionalProperties: false })

export type CoordinatorConfig = Static<typeof CoordinatorConfigSchema>

/** Loads and checks a coordinator's configuration. @throws InvalidInputError with every problem */
export const loadCoordinatorConfig = (path: string): Promise<CoordinatorConfig> => loadConfigFile(path, CoordinatorConfigSchema)
